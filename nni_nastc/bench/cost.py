"""What a network costs once it is trained: multiply-adds, and the time that it takes for one video."""

from __future__ import annotations

import time
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from nni_nastc.models import NetworkSpec, build_model

Name = TypeVar("Name", bound=Hashable)

WARM_UP = 2
ROUNDS = 15


@dataclass(frozen=True)
class Latency:
    """Seconds for one video.

    Attributes
    ----------
    median_s : float
        Of all rounds.
    spread_s : float
        From the first to the third quartile.
    """

    median_s: float
    spread_s: float


def count_multiply_adds(spec: NetworkSpec, feature_shape: tuple[int, int, int], timesteps: int) -> int:
    """Count the multiply-adds of one draw of one video: of convolutions and matrix products, half of PyTorch's FLOPs.

    Additions, norms, activations and pools are not counted, nor is the backbone. Nothing is computed and no memory is
    taken.

    Parameters
    ----------
    spec : NetworkSpec
        The network.
    feature_shape : tuple of int
        (C, H, W).
    timesteps : int
        T.
    """
    channels, height, width = feature_shape
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        build_model(spec).eval()(torch.empty(1, channels, timesteps, height, width))
    return counter.get_total_flops() // 2


def measure_latencies(
    networks: Mapping[Name, tuple[nn.Module, Tensor]], device: torch.device, *, rounds: int = ROUNDS
) -> dict[Name, Latency]:
    """Measure the time from features to logits, of all networks in turn, so that a busy moment hits all alike.

    Parameters
    ----------
    networks : mapping
        Name -> network, and its input (1, C, T, H, W). All are in memory at a time.
    device : torch.device
        Where to.
    rounds : int
        Measurements of each, after two that do not count.

    Returns
    -------
    dict
        Name -> latency.
    """
    ready = {name: (network.eval().to(device), features.to(device)) for name, (network, features) in networks.items()}
    seconds: dict[Name, list[float]] = {name: [] for name in networks}
    with torch.inference_mode():
        for number in range(WARM_UP + rounds):
            for name, (network, features) in ready.items():
                start = time.perf_counter()
                network(features)
                if device.type == "cuda":
                    torch.cuda.synchronize(device)
                if number >= WARM_UP:
                    seconds[name].append(time.perf_counter() - start)
    return {name: _latency(torch.tensor(values, dtype=torch.float64)) for name, values in seconds.items()}


def _latency(seconds: Tensor) -> Latency:
    first, median, third = seconds.quantile(torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)).tolist()
    return Latency(median, third - first)
