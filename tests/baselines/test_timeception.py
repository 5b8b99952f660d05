"""Timeception: the published sizes, and a forward pass that is written a group at a time."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from nni_nastc import build_timeception
from nni_nastc.baselines.timeception import PastMaxPool
from tests.helpers import fill


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(("dilated", "expected"), [(False, 1_488_416), (True, 1_479_584)])
def test_four_layers_on_i3d(dilated, expected):
    network = build_timeception(num_classes=157, num_layers=4, in_channels=1024, num_groups=8, dilated=dilated)
    assert count(network.layers) == expected
    assert [layer.out_channels for layer in network.layers] == [1280, 1600, 2000, 2480]
    assert network.head[1].in_features == 2480


def test_the_moving_statistics_of_the_dilated_layers_make_its_authors_number():
    network = build_timeception(157, 4, dilated=True)
    statistics = sum(b.numel() for b in network.layers.buffers() if b.is_floating_point())
    assert count(network.layers) + statistics == 1_494_304


@pytest.mark.parametrize(("layers", "millions"), [(3, 1.96), (4, 2.84), (6, 6.015)])
def test_with_the_head(layers, millions):
    assert count(build_timeception(num_classes=157, num_layers=layers)) / 1e6 == pytest.approx(millions, abs=0.005)


def test_a_max_pool_of_two_steps_looks_back():
    x = torch.tensor([3.0, 1.0, 2.0, 5.0, 4.0]).reshape(1, 1, 5, 1)
    assert PastMaxPool()(x).flatten().tolist() == [3, 3, 2, 5, 5]


def group_of(branch: torch.nn.Sequential, x: Tensor, group: int, groups: int, scale: tuple[int, int] | None) -> Tensor:
    """One group's part of a branch, written with explicit sums over kernel taps."""
    point, step, norm = branch
    width = point.out_channels // groups
    own = slice(group * width, (group + 1) * width)
    size = x.shape[1] // groups
    mine = x[:, group * size : (group + 1) * size]
    y = torch.einsum("bcts,oc->bots", mine, point.weight[own, :, 0, 0]) + point.bias[own, None, None]
    if scale is not None:
        kernel, dilation = scale
        out = torch.zeros_like(y) + step.bias[own, None, None]
        for tap in range(kernel):
            for t in range(y.shape[2]):
                source = t + dilation * (tap - kernel // 2)
                if 0 <= source < y.shape[2]:
                    out[:, :, t] += step.weight[own, 0, tap, 0][:, None] * y[:, :, source]
        y = out
    elif isinstance(step, PastMaxPool):
        y = torch.maximum(y, torch.cat([y[:, :, :1], y[:, :, :-1]], 2))
    mean, var, weight, bias = (
        t[own, None, None] for t in (norm.running_mean, norm.running_var, norm.weight, norm.bias)
    )
    return (y - mean) / (var + norm.eps).sqrt() * weight + bias


@pytest.mark.parametrize(
    ("dilated", "scales"), [(False, ((3, 1), (5, 1), (7, 1))), (True, ((3, 1), (3, 2), (3, 3)))]
)
def test_equals_the_paper_group_by_group(dilated, scales):
    groups = 3
    network = build_timeception(4, 2, 24, groups, dilated).double().eval()
    fill(network)
    features = torch.randn(2, 24, 8, 2, 1, dtype=torch.float64)
    x = features.flatten(3)
    for layer in network.layers:
        outputs = []
        for group in range(groups):
            parts = [
                group_of(branch, x, group, groups, scale)
                for branch, scale in zip(layer.branches, (None, *scales, None), strict=True)
            ]
            outputs.append(torch.cat(parts, 1).relu())
        width = outputs[0].shape[1]
        shuffled = torch.stack([outputs[c % groups][:, c // groups] for c in range(groups * width)], 1)
        x = torch.maximum(shuffled[:, :, 0::2], shuffled[:, :, 1::2])
    torch.testing.assert_close(network(features), network.head(x.amax((2, 3))))
