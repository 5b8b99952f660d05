"""I3D as the extraction runs it beside a plain module, and beside its own convolutions alone."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from nni_nastc.devices import has_bfloat16, timed
from nni_nastc.features.i3d import I3D, ConvUnit
from nni_nastc.speed.measure import Progress, compare

PIXELS = 224
SUPERFRAMES = {"cpu": 4, "cuda": 64}


def measure_extraction(repeats: int, device: torch.device, progress: Progress) -> dict[str, Any]:
    """Measure superframes of 224 x 224 pixels, in seconds of one.

    Returns
    -------
    dict
        ``ours`` (batch norms folded, channels last), ``unfolded``, ``plain`` (PyTorch's own convolutions and memory
        format) and ``convolutions`` (those of ours alone); ``bfloat16`` and ``bfloat16_convolutions`` where that works.
        ``convolutions_fraction`` and ``bfloat16_convolutions_fraction`` tell which part of the rate of its
        convolutions alone it reaches.
    """
    superframes = SUPERFRAMES[device.type]
    clip = torch.rand(superframes, 3, 8, PIXELS, PIXELS, device=device) * 2 - 1
    torch.manual_seed(0)
    unfolded = I3D().eval().to(device)
    ours = unfolded.folded()
    ways: dict[str, Callable[[], object]] = {
        "ours": partial(_run, ours, clip),
        "unfolded": partial(_run, unfolded, clip),
        "plain": partial(_run, plain_i3d(deepcopy(unfolded)), clip),
        "convolutions": convolutions_alone(ours, clip),
    }
    if has_bfloat16(device):
        short = deepcopy(ours).bfloat16()
        ways["bfloat16"] = partial(_run, short, clip.bfloat16())
        ways["bfloat16_convolutions"] = convolutions_alone(short, clip.bfloat16())
    measured = compare(
        {name: timed(way, device) for name, way in ways.items()},
        repeats,
        lambda name: progress(f"I3D: {name}"),
        per=superframes,
    )
    fractions = {
        f"{alone}_fraction": measured[alone]["median_s"] / measured[whole]["median_s"]
        for whole, alone in (("ours", "convolutions"), ("bfloat16", "bfloat16_convolutions"))
        if whole in measured
    }
    return {"pixels": PIXELS, "superframes_per_s": 1 / measured["ours"]["median_s"], **fractions, **measured}


@torch.inference_mode()
def _run(model: I3D, clip: Tensor) -> Tensor:
    return model.features(clip)


@torch.inference_mode()
def convolutions_alone(model: I3D, clip: Tensor) -> Callable[[], None]:
    """Return what computes all convolutions that a model needs for a clip, and nothing between them."""
    given: list[tuple[ConvUnit, Tensor]] = []
    hooks = [
        # A copy, because a ReLU may work in place on what comes after.
        unit.register_forward_pre_hook(lambda unit, inputs: given.append((unit, inputs[0].clone())))
        for unit in model.modules()
        if isinstance(unit, ConvUnit)
    ]
    model.features(clip)
    for hook in hooks:
        hook.remove()

    @torch.inference_mode()
    def convolve() -> None:
        for unit, x in given:
            unit.convolve(x)

    return convolve


class _PlainUnit(nn.Module):
    """I3D's unit without its kernels: PyTorch's own convolution and memory format, then batch norm, then ReLU."""

    def __init__(self, unit: ConvUnit) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv3d(**_arguments(unit.conv)), unit.bn
        self.conv.weight = nn.Parameter(unit.conv.weight.detach().clone(memory_format=torch.contiguous_format))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.bn(self.conv(x.contiguous())))


def _arguments(conv: nn.Conv3d) -> dict[str, Any]:
    kernel = conv.kernel_size
    return {
        "in_channels": conv.in_channels,
        "out_channels": conv.out_channels,
        "kernel_size": kernel,
        "stride": conv.stride,
        "padding": tuple(k // 2 for k in kernel),
        "bias": False,
    }


def plain_i3d(model: I3D) -> I3D:
    """Turn an I3D into what a straightforward module computes; equal padding on both sides, which costs the same."""
    for parent in [module for module in model.modules() if not isinstance(module, _PlainUnit)]:
        for name, child in list(parent.named_children()):
            if isinstance(child, ConvUnit):
                setattr(parent, name, _PlainUnit(child))
    return model
