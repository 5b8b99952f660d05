"""A toy evaluator, as NNI's strategies take one, and a search on it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from nni.nas.evaluator.pytorch import DataLoader, Lightning, Trainer
from pytorch_lightning.callbacks import Callback
from torch import nn

from nni_nastc.evaluation.history import EpochSeed
from nni_nastc.evaluation.module import RecognitionModule
from nni_nastc.genotype import Genotype
from nni_nastc.nn.network import build_network
from nni_nastc.space.network import NasTCSpace


class ToyVideos(torch.utils.data.Dataset[dict[str, Any]]):
    """Eight videos of noise."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> dict[str, Any]:
        features = torch.randn(16, 8, 2, 2, generator=torch.Generator().manual_seed(index))
        return {"features": features, "target": torch.tensor(index % 3), "index": torch.tensor(index)}


def toy_evaluator(callbacks: Sequence[Callback] = (), epochs: int = 1) -> Lightning:
    trainer = Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        callbacks=list(callbacks),
    )
    module = RecognitionModule("single-label", lambda parameters: (torch.optim.SGD(parameters, lr=0.1), None))
    loaders = [DataLoader(ToyVideos(), batch_size=4) for _ in range(2)]
    return Lightning(module, trainer, train_dataloaders=loaders[0], val_dataloaders=loaders[1])


def toy_space(operations: Sequence[str] = ("identity", "max_pool", "sep_conv_3")) -> NasTCSpace:
    return NasTCSpace(num_classes=3, num_layers=2, in_channels=16, num_groups=2, operations=operations)


def toy_search(strategy: Any, space: NasTCSpace, *, epochs: int = 1, train: bool = True) -> Any:
    """Search through NNI's strategy interface, or only get ready to; return the module that searches."""
    strategy.mutate_model(space)
    evaluator = strategy.mutate_evaluator(toy_evaluator([EpochSeed(0)], epochs))
    if train:
        evaluator.evaluate(space)
    else:
        evaluator.module.set_model(space)
    return evaluator.module


def inherited(space: NasTCSpace, genotype: Genotype, *, by_edge: bool) -> nn.Module:
    """Build the fixed network of a cell, with the weights that a toy supernet has for it.

    The supernet has operations for each edge (node, predecessor), or for each slot (node, first or second).
    """
    network = build_network(genotype, num_classes=3, num_layers=2, in_channels=16, num_groups=2)
    for ours, theirs in zip(network.layers, space.layers, strict=True):
        _copy(ours.cell.preprocessor, theirs.cell.preprocessor)
        for node, pairs in enumerate(genotype.nodes):
            for slot, (name, source) in enumerate(pairs):
                _copy(ours.cell.ops[node][slot], theirs.cell.ops[node][source if by_edge else slot][name])
    _copy(network.head, space.head)
    return network


def _copy(ours: nn.Module, theirs: nn.Module) -> None:
    """Copy weights and statistics; batch norms of cells keep scale 1 and shift 0, as they have none in a search."""
    missing, unexpected = ours.load_state_dict(theirs.state_dict(), strict=False)
    assert not unexpected
    assert all(name.endswith(("weight", "bias")) for name in missing)
