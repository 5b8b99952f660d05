"""Folded batch norms leave the output as it is."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from nni_nastc.genotype import Genotype
from nni_nastc.models import METHODS, NetworkSpec, build_model
from nni_nastc.nn.folding import fold_batch_norms


def lived_in(network: nn.Module) -> nn.Module:
    """Give every batch norm statistics, scale and shift of its own."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                for tensor in (module.running_mean, module.running_var, module.weight, module.bias):
                    tensor.copy_(0.5 + torch.rand(tensor.shape, generator=generator))
    return network.double()


@pytest.mark.parametrize("network", [Genotype.random(0), Genotype.random(1), *METHODS], ids=lambda n: str(n)[:20])
def test_same_output(network):
    torch.manual_seed(0)
    model = lived_in(build_model(NetworkSpec(network, num_classes=3, in_channels=32, num_layers=2, num_groups=2)))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    folded = fold_batch_norms(model)
    x = torch.randn(2, 32, 16, 3, 3, dtype=torch.float64)
    torch.testing.assert_close(folded(x), model.eval()(x), rtol=1e-10, atol=1e-12)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), f"folding changed {name} of the network that was given"


def test_no_norm_behind_a_convolution_is_left():
    cell = Genotype(nodes=((("sep_conv_3", 0), ("dil_conv_5", 1)),) * 4)
    model = build_model(NetworkSpec(cell, num_classes=3, in_channels=32, num_layers=2, num_groups=2))
    count = lambda network: sum(isinstance(m, nn.BatchNorm2d) for m in network.modules())  # noqa: E731
    # Four nodes of a separable (two norms) and a dilated convolution, and two inputs, in two layers.
    assert count(model) == 2 * (4 * 3 + 2)
    assert count(fold_batch_norms(model)) == 0
