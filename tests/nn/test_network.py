"""The fixed NAS-TC network: shapes, published sizes, an independent forward pass."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from nni_nastc.errors import ModelError
from nni_nastc.genotype import Genotype
from nni_nastc.nn.network import build_network, default_num_groups
from tests.helpers import fill

SIX_POINTWISE = Genotype(
    nodes=(
        (("sep_conv_3", 0), ("sep_conv_5", 1)),
        (("dil_conv_3", 0), ("dil_conv_5", 2)),
        (("identity", 0), ("max_pool", 1)),
        (("avg_pool", 0), ("identity", 3)),
    )
)


def millions(network: nn.Module, *, without_norms: bool = False) -> float:
    total = sum(p.numel() for p in network.parameters())
    if without_norms:
        total -= sum(p.numel() for m in network.modules() if isinstance(m, nn.BatchNorm2d) for p in m.parameters())
    return total / 1e6


@pytest.mark.parametrize(("layers", "expected"), [(3, 1.456), (4, 1.984), (6, 3.857)])
def test_parameters_are_the_published_ones(layers, expected):
    """With K = 157; the cells' scale and shift of batch norm, 0.3 %, are not counted in the published numbers."""
    network = build_network(SIX_POINTWISE, 157, layers)
    assert millions(network, without_norms=True) == pytest.approx(expected, rel=0.005)
    assert millions(network) == pytest.approx(expected, rel=0.005)


@pytest.mark.parametrize(("layers", "expected"), [(3, 1.456), (4, 1.984), (6, 3.857)])
def test_parameters_of_six_dilated_convolutions_are_exact(layers, expected):
    """Six pointwise and six depthwise convolutions of length 5; the scale and shift of the cells' norms come on top."""
    convolutions = (("dil_conv_5", 0), ("dil_conv_5", 1))
    network = build_network(Genotype(nodes=(*(convolutions,) * 3, (("identity", 0), ("identity", 1)))), 157, layers)
    assert round(millions(network, without_norms=True), 3) == expected
    assert 0.0015 < millions(network) / millions(network, without_norms=True) - 1 < 0.003


def test_parameters_without_layers():
    assert millions(build_network(SIX_POINTWISE, 157, 0)) == pytest.approx(0.606, rel=0.005)


@pytest.mark.parametrize("timesteps", [32, 64, 128])
@pytest.mark.parametrize("size", [7, 3, 1])
def test_shapes(timesteps, size):
    network = build_network(Genotype.random(3), 5, 3, 64).eval()
    assert network(torch.randn(2, 64, timesteps, size, size)).shape == (2, 5)


def test_eight_layers_take_512_superframes():
    network = build_network(Genotype.random(1), 5, 8, 16).eval()
    assert network(torch.randn(1, 16, 512, 1, 1)).shape == (1, 5)


@pytest.mark.parametrize(("timesteps", "layers"), [(20, 3), (4, 3), (33, 1)])
def test_timesteps_that_cannot_be_halved_are_refused(timesteps, layers):
    network = build_network(Genotype.random(0), 5, layers, 16)
    with pytest.raises(ModelError, match=f"T = {timesteps} with L = {layers}"):
        network(torch.randn(1, 16, timesteps, 1, 1))


@pytest.mark.parametrize(
    ("channels", "groups"),
    [(1024, 8), (2048, 16), (2480, 20), (16, 1), (192, 1), (320, 2), (400, 4), (448, 4), (131, 1)],
)
def test_default_groups(channels, groups):
    """The divisor nearest to C / 128, the smaller on a tie: 192 / 128 is half way between 1 and 2."""
    assert default_num_groups(channels) == groups


@pytest.mark.parametrize("kwargs", [{"num_groups": 3}, {"num_classes": 0}, {"num_layers": -1}, {"num_groups": 0}])
def test_impossible_sizes(kwargs):
    sizes = {"num_classes": 5, "num_layers": 2, "in_channels": 16, "num_groups": None} | kwargs
    name, value = next(iter(kwargs.items()))
    with pytest.raises(ModelError, match=f"{name}={value}"):
        build_network(Genotype.random(0), **sizes)


def slow_forward(network: nn.Module, genotype: Genotype, features: Tensor, groups: int) -> Tensor:
    """The paper's text, one group after another, with 5D tensors and explicit indices."""
    before_last = last = features
    for number, layer in enumerate(network.layers):
        outputs = []
        for group in range(groups):
            inputs = []
            for x in (before_last, last):
                size = x.shape[1] // groups
                inputs.append(x[:, group * size : (group + 1) * size])
            if number > 0:
                inputs[0] = torch.maximum(inputs[0][:, :, 0::2], inputs[0][:, :, 1::2])
            states = [
                reduce(x.flatten(3)) for reduce, x in zip(layer.cell.preprocessor.reduce, inputs, strict=True)
            ]
            for node, pairs in enumerate(genotype.nodes):
                terms = [layer.cell.ops[node][slot](states[source]) for slot, (_, source) in enumerate(pairs)]
                states.append(terms[0] + terms[1])
            outputs.append(torch.cat(states[2:], 1).unflatten(3, features.shape[3:]))
        width = outputs[0].shape[1]
        shuffled = torch.stack([outputs[c % groups][:, c // groups] for c in range(groups * width)], 1)
        before_last, last = last, torch.maximum(shuffled[:, :, 0::2], shuffled[:, :, 1::2])
    return network.head(last.amax((2, 3, 4)))


@pytest.mark.parametrize("seed", range(3))
def test_equals_the_paper_group_by_group(seed):
    genotype = Genotype.random(seed)
    network = build_network(genotype, 5, 3, 24, num_groups=4).double().eval()
    fill(network, seed)
    features = torch.randn(2, 24, 16, 3, 2, dtype=torch.float64)
    torch.testing.assert_close(network(features), slow_forward(network, genotype, features, 4))


def test_order_within_a_node_does_not_matter_for_the_output():
    genotype = Genotype.random(5)
    swapped = Genotype(nodes=tuple((second, first) for first, second in genotype.nodes))
    one, other = (build_network(g, 5, 2, 16).eval() for g in (genotype, swapped))
    fill(one)
    renamed = {}
    for key, value in one.state_dict().items():
        if ".ops." in key:
            head, tail = key.split(".ops.")
            node, slot, rest = tail.split(".", 2)
            key = f"{head}.ops.{node}.{1 - int(slot)}.{rest}"
        renamed[key] = value
    other.load_state_dict(renamed)
    x = torch.randn(2, 16, 8, 2, 2)
    torch.testing.assert_close(one(x), other(x))


def test_gradients_reach_every_parameter():
    network = build_network(SIX_POINTWISE, 5, 2, 16)
    network(torch.randn(4, 16, 8, 2, 2)).sum().backward()
    assert not [name for name, p in network.named_parameters() if p.grad is None]
