"""Supernets that compute one cell at a time: a path through them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from nni.nas.oneshot.pytorch.base_lightning import BaseOneShotLightningModule
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from nni_nastc.data.reading import network_input
from nni_nastc.genotype import Genotype


class PathModule(BaseOneShotLightningModule):
    """The part of a search that goes path by path."""

    def path(self) -> Genotype:
        """Return the cell to be scored next: the derived one, or a drawn one."""
        raise NotImplementedError

    def take(self, genotype: Genotype) -> None:
        """Let the supernet compute this cell."""
        sample = genotype.to_nni()
        for module in self.supernet_modules():
            module.resample(memo=sample)

    def export(self) -> dict[str, Any]:
        """Return the sample of :meth:`path`."""
        return self.path().to_nni()


def batch_norms(network: nn.Module) -> list[_BatchNorm]:
    """Return all batch norms of a network."""
    return [module for module in network.modules() if isinstance(module, _BatchNorm)]


def refresh_statistics(network: nn.Module, batches: Iterable[Mapping[str, Any]], device: torch.device) -> None:
    """Replace the running statistics of all batch norms by means over some batches.

    Those that a supernet gathers while it trains are of all paths mixed, and of no use to a single one (Guo et al.,
    Single Path One-Shot, ECCV 2020).

    Parameters
    ----------
    network : nn.Module
        (B, C, T, H, W) -> logits (B, K), on ``device``. Nothing else of it changes; dropout is off meanwhile.
    batches : iterable of mappings
        With ``features``. A batch of one video has no statistics and is left out.
    device : torch.device
        Where the network is.
    """
    was_training, norms = network.training, batch_norms(network)
    momenta = [norm.momentum for norm in norms]
    network.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean over all batches
        norm.train()
    with torch.no_grad():
        for batch in batches:
            if len(batch["features"]) > 1:
                network(network_input(batch["features"], device))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    network.train(was_training)
