"""What every head promises: shapes, gradients, that it learns, and whether it sees the order."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy

from nni_nastc.errors import ModelError
from nni_nastc.models import METHODS, NetworkSpec, build_model, check_model_timesteps
from tests.helpers import fill

NAMES = [
    *("pool", "pool_max", "timeception", "timeception_dilated", "actionvlad", "videograph"),
    *("nonlocal", "trn", "lstm", "super_events", "tgm", "transformer"),
]
SLOW = {"nonlocal", "tgm", "trn", "videograph"}
ORDER_BLIND = {"pool", "pool_max", "actionvlad", "nonlocal"}


def build(name: str, num_classes: int = 3, in_channels: int = 16, num_layers: int = 2, num_groups: int | None = 2):
    return build_model(NetworkSpec(name, num_classes, in_channels, num_layers, num_groups))


def test_all_heads_are_known_by_name():
    assert sorted(METHODS) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_shapes(name):
    network = build(name, 5).eval()
    with torch.inference_mode():
        for timesteps in (32, 64, 128):
            for size in (7, 3, 1):
                assert network(torch.rand(2, 16, timesteps, size, size)).shape == (2, 5), (timesteps, size)


@pytest.mark.parametrize("name", NAMES)
def test_the_features_of_i3d(name):
    network = build(name, 157, 1024, num_layers=3, num_groups=None).eval()
    with torch.inference_mode():
        logits = network(torch.rand(1, 1024, 32, 7, 7))
    assert logits.shape == (1, 157)
    assert logits.isfinite().all()
    assert 0.3e6 < sum(p.numel() for p in network.parameters()) < 4e6, "of the size of the networks it is compared with"


@pytest.mark.parametrize("name", NAMES)
def test_gradients_reach_every_parameter(name):
    network = build(name)
    fill(network)
    cross_entropy(network(torch.rand(6, 16, 16, 3, 3)), torch.arange(6) % 3).backward()
    assert not [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in NAMES])
def test_32_samples_are_learned_by_heart(name):
    """With the optimizer that ``nastc train`` has."""
    network = build(name, 4, 64)
    features, labels = (torch.randn(32, 64, 1, 1, 1) + torch.randn(32, 64, 12, 1, 1)).relu(), torch.arange(32) % 4
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01, eps=1e-4)
    for _ in range(20):
        for _ in range(10):
            optimizer.zero_grad()
            cross_entropy(network.train()(features), labels).backward()
            optimizer.step()
        accuracy = (network.eval()(features).argmax(1) == labels).float().mean().item()
        if accuracy == 1:
            break
    assert accuracy == 1


@pytest.mark.parametrize("name", NAMES)
def test_which_heads_see_the_order(name):
    network = build(name).eval()
    fill(network)
    features = torch.rand(2, 16, 16, 2, 2)
    swapped = features.clone()
    swapped[:, :, [3, 12]] = features[:, :, [12, 3]]
    logits = network(features)
    assert torch.allclose(logits, network(swapped), atol=1e-5 * logits.abs().max().item()) == (name in ORDER_BLIND)


@pytest.mark.parametrize("name", NAMES)
def test_a_head_has_one_answer_whatever_else_is_in_the_batch(name):
    network = build(name).eval()
    fill(network)
    features = torch.rand(3, 16, 16, 2, 2)
    torch.testing.assert_close(network(features)[1:2], network(features[1:2]), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "timesteps", "rule"),
    [
        ("timeception", 18, r"T = 18 with L = 2 \(2\^L = 4\)"),
        ("timeception_dilated", 2, r"T = 2 with L = 2"),
        ("videograph", 8, "T of 9 and more.*T = 8"),
    ],
)
def test_timesteps_that_a_head_cannot_take(name, timesteps, rule):
    with pytest.raises(ModelError, match=rule):
        check_model_timesteps(NetworkSpec(name, 3, 16, 2), timesteps)
    with pytest.raises(ModelError, match=rule):
        build(name)(torch.rand(2, 16, timesteps, 1, 1))


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"timeception", "timeception_dilated", "videograph"}))
def test_other_heads_take_any_timesteps(name):
    network = build(name).eval()
    for timesteps in (1, 9):
        check_model_timesteps(NetworkSpec(name, 3, 16, 2), timesteps)
        assert network(torch.rand(2, 16, timesteps, 1, 2)).shape == (2, 3)


def test_the_shortest_timesteps():
    for name, timesteps in (("timeception", 4), ("videograph", 9)):
        check_model_timesteps(NetworkSpec(name, 3, 16, 2), timesteps)
        assert build(name).eval()(torch.rand(2, 16, timesteps, 1, 1)).shape == (2, 3)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (NetworkSpec("timeception", 3, 16, 2, 3), "num_groups that divides in_channels.*in_channels=16, num_groups=3"),
        (NetworkSpec("timeception", 3, 16, -1), "num_layers=-1"),
        (NetworkSpec("transformer", 3, 16, -1), "num_layers >= 0, got -1"),
        (NetworkSpec("lstm", 0, 16), "lstm needs num_classes >= 1.*num_classes=0"),
        (NetworkSpec("tgm", 3, 0), "in_channels=0"),
    ],
)
def test_impossible_sizes(spec, message):
    with pytest.raises(ModelError, match=message):
        build_model(spec)


@pytest.mark.parametrize("name", ["timeception", "transformer"])
def test_more_layers_are_more_parameters(name):
    sizes = [sum(p.numel() for p in build(name, num_layers=layers).parameters()) for layers in range(3)]
    assert sizes[0] < sizes[1] < sizes[2]
