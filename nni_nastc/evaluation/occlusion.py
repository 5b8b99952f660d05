"""When does a video speak for a class? The evidence over time, by occlusion.

A stretch of the video is hidden, and what a class loses is the evidence of that stretch for the class (Zeiler and
Fergus, ECCV 2014, did so with patches of images, and took the drop of the probability).

The loss is measured in log-odds, log p - log(1 - p) (our choice). A network that is sure of a class stays sure without
any one stretch: the probability hardly moves and hides what each stretch adds, the log-odds show it. A drop of
log 2 = 0.7 means that the odds p : (1 - p) are twice as high with the stretch, whatever they are.

To hide is to put the mean feature of the whole video in the place of the stretch (our choice: it says nothing about
time, and it is a feature of this very video; zeros would be a scene that the network never saw).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from nni_nastc.evaluation.scoring import log_odds
from nni_nastc.features.superframes import uniform_windows

STRETCHES = 16
"""About as many stretches are told apart (our choice): 16 to 31, fewer only where the network sees fewer windows."""


@dataclass(frozen=True)
class Evidence:
    """What speaks for each class, and when.

    Parameters
    ----------
    values : ndarray, (K, S)
        Natural log-odds that the class loses without the stretch: above 0 it speaks for the class, below 0 against it.
    times : ndarray, (S, 2)
        Start and end of the stretches in seconds.
    """

    values: np.ndarray
    times: np.ndarray


def occlusion_evidence(
    features: np.ndarray,
    times: np.ndarray,
    network: nn.Module,
    task: str,
    *,
    timesteps: int,
    device: torch.device | None = None,
    batch_size: int = 4,
) -> Evidence:
    """Hide one stretch of a video after the other, and see what the network makes of it.

    The network sees the middle window of each of the T segments, as in validation.

    Parameters
    ----------
    features : ndarray, (windows, C, H, W)
        All superframes of the video.
    times : ndarray, (windows, 2)
        Their start and end in seconds.
    network : nn.Module
        (B, C, T, H, W) -> logits (B, K), in evaluation mode, on ``device``.
    task : str
        "single-label" (softmax) or "multi-label" (sigmoid).
    timesteps : int
        T.
    device : torch.device, optional
        Where the network is; the CPU by default.
    batch_size : int
        Videos of T superframes that are run together.

    Returns
    -------
    Evidence
        S stretches; 16 for T = 16, 32, 64 or 128 and a video of at least T windows. All 0 for a single label of one
        class: it is certain, whatever is hidden.
    """
    drawn = uniform_windows(len(features), timesteps)
    stretch_of_window = stretches(len(features), timesteps)
    video = torch.from_numpy(features[drawn]).float()  # (T, C, H, W)
    mean = torch.from_numpy(features.mean(axis=0, dtype=np.float64)).float()  # (C, H, W)
    hidden = torch.from_numpy(stretch_of_window[drawn] == np.arange(stretch_of_window[-1] + 1)[:, None])  # (S, T)
    masks = torch.cat([torch.zeros_like(hidden[:1]), hidden])  # the video as it is comes first
    rows = [log_odds(task, network(batch.to(device))) for batch in _hide(video, mean, masks, batch_size)]
    seen, without = torch.cat(rows).split([1, len(hidden)])
    certain = task == "single-label" and seen.shape[1] == 1
    values = torch.zeros_like(without) if certain else seen - without
    return Evidence(values=values.T.numpy(), times=_spans(stretch_of_window, times))


def stretches(num_windows: int, timesteps: int) -> np.ndarray:
    """Return the stretch (windows,) that each window of a video belongs to.

    Each has max(1, floor(n / 16)) of the n windows that the network sees, the last one maybe fewer. A border lies
    halfway between the last seen window of a stretch and the first one of the next.
    """
    seen = np.unique(uniform_windows(num_windows, timesteps))
    length = max(1, len(seen) // STRETCHES)
    borders = (seen[length - 1 : -1 : length] + seen[length::length] + 1) // 2
    return np.searchsorted(borders, np.arange(num_windows), side="right")


def _hide(video: Tensor, mean: Tensor, masks: Tensor, batch_size: int) -> Iterator[Tensor]:
    """Yield batches (B, C, T, H, W) in which the masked (B, T) superframes are the mean."""
    for some in masks.split(batch_size):
        yield torch.where(some[:, :, None, None, None], mean, video).transpose(1, 2).contiguous()


def _spans(stretch_of_window: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Return start and end in seconds of every stretch."""
    numbers = np.arange(stretch_of_window[-1] + 1)
    first = np.searchsorted(stretch_of_window, numbers, side="left")
    last = np.searchsorted(stretch_of_window, numbers, side="right") - 1
    return np.stack([times[first, 0], times[last, 1]], axis=1)
