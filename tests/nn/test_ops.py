"""The temporal operations against plain loops over time."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from nni_nastc.genotype import OPERATION_NAMES
from nni_nastc.nn.ops import OPS
from tests.helpers import fill

CHANNELS, STEPS, PLACES = 3, 8, 4


def frames() -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, CHANNELS, STEPS, PLACES, generator=generator)


def batch_norm(x: Tensor, bn: nn.BatchNorm2d) -> Tensor:
    y = (x - bn.running_mean[:, None, None]) / torch.sqrt(bn.running_var[:, None, None] + bn.eps)
    return y * bn.weight[:, None, None] + bn.bias[:, None, None]


def convolve(x: Tensor, depthwise: Tensor, pointwise: Tensor, dilation: int) -> Tensor:
    """ReLU, then a depthwise and a pointwise convolution, one time step after another."""
    x = x.clamp(min=0)
    taps = depthwise.shape[2]
    out = torch.zeros_like(x)
    for t in range(STEPS):
        for tap in range(taps):
            source = t + (tap - taps // 2) * dilation
            if 0 <= source < STEPS:
                out[:, :, t] += x[:, :, source] * depthwise[:, 0, tap, 0][:, None]
    return torch.einsum("oi,bits->bots", pointwise[:, :, 0, 0], out)


def reference(name: str, module: nn.Module, x: Tensor) -> Tensor:
    if name == "zero":
        return torch.zeros_like(x)
    if name == "identity":
        return x
    if name.endswith("pool"):
        before = torch.stack([x[:, :, max(0, t - 1)] for t in range(STEPS)], dim=2)
        pooled = (x + before) / 2 if name == "avg_pool" else torch.maximum(x, before)
        return batch_norm(pooled, module.bn)
    dilation = 2 if name.startswith("dil") else 1
    for stage in range(0, len(module), 4):
        x = convolve(x, module[stage + 1].weight, module[stage + 2].weight, dilation)
        x = batch_norm(x, module[stage + 3])
    return x


@pytest.mark.parametrize("name", OPERATION_NAMES)
def test_equals_a_loop_over_time(name):
    module = OPS[name](CHANNELS, True).eval()
    fill(module)
    x = frames()
    torch.testing.assert_close(module(x), reference(name, module, x), rtol=1e-5, atol=1e-5)


def test_operations_differ_from_each_other():
    """With equal fill, so that two that are swapped would be noticed."""
    outputs = []
    for factory in OPS.values():
        module = factory(CHANNELS, True).eval()
        fill(module)
        outputs.append(module(frames()))
    for i, one in enumerate(outputs):
        assert all((one - other).abs().max() > 1e-3 for other in outputs[i + 1 :])


def test_table_is_ordered_and_read_only():
    assert tuple(OPS) == OPERATION_NAMES
    with pytest.raises(TypeError):
        OPS["more"] = OPS["zero"]


@pytest.mark.parametrize(
    ("name", "depthwise", "pointwise"),
    [("dil_conv_3", 1, 1), ("dil_conv_5", 1, 1), ("sep_conv_3", 2, 2), ("sep_conv_5", 2, 2), ("sep_conv_7", 2, 2)],
)
def test_parameters(name, depthwise, pointwise):
    """A dilated convolution applies once, a separable one twice; nothing else has weights."""
    taps = int(name[-1])
    module = OPS[name](10, False)
    assert sum(p.numel() for p in module.parameters()) == depthwise * 10 * taps + pointwise * 100


@pytest.mark.parametrize("name", [name for name in OPERATION_NAMES if name not in ("zero", "identity")])
def test_batch_norm_has_scale_and_shift_only_when_asked(name):
    norms = [m for affine in (False, True) for m in OPS[name](4, affine).modules() if isinstance(m, nn.BatchNorm2d)]
    half = len(norms) // 2
    assert all(m.weight is None for m in norms[:half])
    assert all(m.weight is not None for m in norms[half:])


def test_no_3d_convolutions():
    """Their depthwise form is many times slower on a CPU."""
    assert not any(isinstance(m, nn.Conv3d) for factory in OPS.values() for m in factory(4, True).modules())
