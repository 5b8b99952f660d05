"""The fixed network beside Timeception, and in other ways to compute it."""

from __future__ import annotations

from copy import deepcopy
from functools import partial
from typing import Any

import torch
from torch import nn

from nni_nastc.acceleration import compiler_problem
from nni_nastc.bench.parameters import PUBLISHED_SIZE
from nni_nastc.devices import has_bfloat16, timed
from nni_nastc.models import NetworkSpec, build_model
from nni_nastc.speed.measure import Progress, compare

LAYERS, TIMESTEPS, CHANNELS, CLASSES = 4, 128, 1024, 157


def measure_fixed_network(repeats: int, device: torch.device, progress: Progress) -> dict[str, Any]:
    """Measure NAS-TC with six pointwise convolutions on one video, and a training step of it with two.

    Returns
    -------
    dict
        ``forward`` and ``training``, each with ``ours`` and ``timeception``; the training step also with ``compiled``
        (torch.compile) and ``bfloat16`` (autocast) where these work.
    """
    ours, timeception = (
        build_model(NetworkSpec(network, CLASSES, CHANNELS, LAYERS)).to(device)
        for network in (PUBLISHED_SIZE, "timeception")
    )
    videos = torch.rand(2, CHANNELS, TIMESTEPS, 7, 7, device=device)

    def forward(network: nn.Module) -> None:
        with torch.inference_mode():
            network.eval()(videos[:1])

    def training(network: nn.Module, bfloat16: bool = False) -> None:
        network.train().zero_grad()
        with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
            loss = network(videos).square().mean()
        loss.backward()

    steps = {"ours": partial(training, ours), "timeception": partial(training, timeception)}
    if not compiler_problem(device):
        compiled = deepcopy(ours)
        compiled.compile()
        steps["compiled"] = partial(training, compiled)
    if has_bfloat16(device):
        steps["bfloat16"] = partial(training, ours, bfloat16=True)
    works = {
        "forward": {"ours": partial(forward, ours), "timeception": partial(forward, timeception)},
        "training": steps,
    }
    result: dict[str, Any] = {"layers": LAYERS, "timesteps": TIMESTEPS}
    for name, ways in works.items():
        turns = {key: timed(function, device) for key, function in ways.items()}
        result[name] = compare(turns, repeats, lambda key: progress(f"fixed network: {key}"))
    return result
