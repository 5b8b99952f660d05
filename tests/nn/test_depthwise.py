"""The depthwise convolution over T, and its gradients, are those of PyTorch's dilated one."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from nni_nastc.nn.depthwise import TemporalDepthwise, convolve, input_gradient, kernel_gradient

CHANNELS, PLACES = 5, 3


@pytest.fixture(params=[torch.contiguous_format, torch.channels_last], ids=["channels-first", "channels-last"])
def layout(request) -> torch.memory_format:
    return request.param


@pytest.mark.parametrize("steps", [1, 2, 7, 8])
@pytest.mark.parametrize("dilation", [1, 2, 3])
@pytest.mark.parametrize("size", [3, 5, 7])
def test_same_as_a_dilated_convolution(size, dilation, steps, layout):
    torch.manual_seed(0)
    x = torch.randn(2, CHANNELS, steps, PLACES, dtype=torch.float64).contiguous(memory_format=layout).requires_grad_()
    kernel = torch.randn(CHANNELS, 1, size, 1, dtype=torch.float64, requires_grad=True)
    padding = (dilation * (size - 1) // 2, 0)
    expected = F.conv2d(x, kernel, None, 1, padding, (dilation, 1), CHANNELS)
    upper = torch.randn_like(expected)
    expected_gradients = torch.autograd.grad(expected, (x, kernel), upper)

    found = convolve(x, kernel, dilation=dilation)
    torch.testing.assert_close(found, expected)
    for gradients in (
        torch.autograd.grad(found, (x, kernel), upper),
        (input_gradient(upper, kernel, dilation=dilation), kernel_gradient(upper, x, kernel, dilation=dilation)),
    ):
        for gradient, wanted in zip(gradients, expected_gradients, strict=True):
            torch.testing.assert_close(gradient, wanted)


def test_nothing_is_copied_where_the_dilation_divides_the_steps(monkeypatch):
    """Channels last, the two views are of the same memory."""
    seen = []
    original = F.conv2d
    monkeypatch.setattr(F, "conv2d", lambda x, *rest, **named: seen.append(x) or original(x, *rest, **named))
    x = torch.randn(2, CHANNELS, 8, PLACES).contiguous(memory_format=torch.channels_last)
    convolve(x, torch.randn(CHANNELS, 1, 3, 1), dilation=2)
    assert seen[0].shape == (2, CHANNELS, 4, 2 * PLACES)
    assert seen[0].data_ptr() == x.data_ptr()


@pytest.mark.parametrize("bias", [True, False])
def test_the_module_has_the_weights_of_a_convolution(bias):
    module = TemporalDepthwise(CHANNELS, 5, 2, bias=bias)
    plain = nn.Conv2d(CHANNELS, CHANNELS, (5, 1), padding=(4, 0), dilation=(2, 1), groups=CHANNELS, bias=bias)
    plain.load_state_dict(module.state_dict())
    x = torch.randn(2, CHANNELS, 8, PLACES)
    torch.testing.assert_close(module(x), plain(x))
