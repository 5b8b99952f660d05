"""Scores of a network over a whole set of videos, computed once, never averaged over batches."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nni_nastc.data.reading import network_input
from nni_nastc.distributed import gather
from nni_nastc.evaluation.metrics import accuracy, mean_average_precision
from nni_nastc.evaluation.predictions import average_draws

METRIC_NAMES = {"single-label": "accuracy", "multi-label": "mAP"}
"""The score of each task, by the name that it has in ``metrics.json``."""


def loss_of(task: str, logits: Tensor, target: Tensor) -> Tensor:
    """Return the cross-entropy of single labels, the binary cross-entropy of multiple labels."""
    if task == "single-label":
        return F.cross_entropy(logits, target)
    return F.binary_cross_entropy_with_logits(logits, target)


def probabilities(task: str, logits: Tensor) -> Tensor:
    """Return softmax scores of single labels, sigmoid scores of multiple labels."""
    return logits.softmax(-1) if task == "single-label" else logits.sigmoid()


def log_odds(task: str, logits: Tensor) -> Tensor:
    """Return log p - log(1 - p) of the :func:`probabilities` p, exact however near p is to 0 or 1.

    Parameters
    ----------
    task : str
        "single-label": a class' logit minus the log-sum-exp of all others; "multi-label": the logit itself.
    logits : Tensor, (B, K)
        Of the network, of any precision.

    Returns
    -------
    Tensor, (B, K)
        In double precision, on the CPU. A single label of one class is certain: its log-odds are infinite.
    """
    logits = logits.cpu().double()
    if task != "single-label":
        return logits
    itself = torch.eye(logits.shape[-1], dtype=torch.bool)
    others = logits[:, None, :].masked_fill(itself, -torch.inf)  # (B, K, K)
    return logits - others.logsumexp(-1)


@dataclass(frozen=True)
class VideoScores:
    """What a network says of a set of videos.

    Parameters
    ----------
    scores : array of shape (N, K)
        Class probabilities, averaged over the draws of a video.
    targets : array of shape (N,) or (N, K)
        Class numbers, or 0 and 1 for each class.
    loss : float
        Mean loss over all draws.
    task : str
        "single-label" or "multi-label".
    """

    scores: np.ndarray
    targets: np.ndarray
    loss: float
    task: str

    @property
    def metric(self) -> float:
        """Accuracy or mAP in [0, 1]."""
        if self.task == "single-label":
            return accuracy(self.scores, self.targets)
        return mean_average_precision(self.scores, self.targets).mean_ap


def score_videos(
    network: nn.Module, loader: Iterable[Mapping[str, Any]], task: str, device: torch.device
) -> VideoScores:
    """Run a network over a loader and average the class probabilities over the draws of each video.

    Parameters
    ----------
    network : nn.Module
        (B, C, T, H, W) -> logits (B, K). It is put into evaluation mode for the time, then back.
    loader : iterable of mappings
        Batches with ``features`` (B, C, T, H, W), ``target``, and ``index`` (B,), the number of the video.
    task : str
        "single-label" or "multi-label".
    device : torch.device
        Where the network is.

    Returns
    -------
    VideoScores
        A row for each video, in the order of their numbers. In a distributed run each process walks its share of the
        draws, and every process gets the scores of all videos.
    """
    was_training = network.training
    network.eval()
    own = []  # of each batch: numbers of the videos, probabilities, targets, sum of the losses
    with torch.no_grad():
        for batch in loader:
            logits = network(network_input(batch["features"], device)).float()
            loss = loss_of(task, logits, batch["target"].to(device)).item() * len(logits)
            scores = probabilities(task, logits).double().cpu().numpy()
            own.append((batch["index"].numpy(), scores, batch["target"].numpy(), loss))
    network.train(was_training)
    indices, rows, labels, losses = zip(*chain.from_iterable(gather(own)), strict=True)
    index = np.concatenate(indices)
    first = np.unique(index, return_index=True)[1]
    return VideoScores(
        scores=average_draws(index, np.concatenate(rows), len(first)),
        targets=np.concatenate(labels)[first],
        loss=sum(losses) / len(index),
        task=task,
    )
