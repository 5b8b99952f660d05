"""Small things that several tests need."""

from __future__ import annotations

import torch
from torch import nn


def fill(module: nn.Module, seed: int = 0) -> None:
    """Give every parameter and statistic its own values, so that two that are swapped are noticed."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in sorted(module.state_dict().items()):
            if not tensor.is_floating_point():
                continue
            if name.endswith("running_var"):
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
            else:
                tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.3)
