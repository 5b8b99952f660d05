"""The count of a step's memory, and the message."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from nni_nastc.errors import ModelError
from nni_nastc.evaluation import memory
from nni_nastc.evaluation.memory import explained_memory, largest_batch, step_bytes
from nni_nastc.genotype import Genotype
from nni_nastc.nn.network import build_network
from nni_nastc.search.temp_darts import TempDARTS
from nni_nastc.space.network import NasTCSpace


def test_counted_by_hand():
    # The input of a linear layer is kept, and so is that of a square; sums keep nothing.
    class Tiny(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(5, 7, bias=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.linear(x).square().sum()

    assert step_bytes(Tiny(), (3, 5)) == 4 * (3 * 5 + 3 * 7)


def test_grows_with_the_batch_and_T():
    network = build_network(Genotype.random(0), num_classes=3, num_layers=2, in_channels=32, num_groups=2)
    shapes = ((2, 32, 8, 3, 3), (4, 32, 8, 3, 3), (2, 32, 16, 3, 3))
    small, wide, long = (step_bytes(network, shape) for shape in shapes)
    assert 1.8 * small < wide < 2.2 * small
    assert 1.8 * small < long < 2.2 * small


def test_our_supernet_keeps_far_less_than_the_plain_one(monkeypatch):
    space = TempDARTS().mutate_model(NasTCSpace(num_classes=3, num_layers=2, in_channels=1024))
    shape = (4, 1024, 16, 7, 7)
    ours = step_bytes(space, shape)
    monkeypatch.setattr("nni_nastc.search.supernet.plan_cell", lambda *arguments, **options: None)
    assert ours < 0.4 * step_bytes(space, shape)


def test_values_are_not_copied(monkeypatch):
    network = nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7))
    monkeypatch.setattr(nn.Parameter, "__deepcopy__", None)
    monkeypatch.setattr(torch.Tensor, "__deepcopy__", None)
    assert step_bytes(network, (3, 5)) > 0
    assert not any(p.is_meta for p in network.parameters())


def test_the_largest_batch_fits_and_one_more_does_not(monkeypatch):
    network = build_network(Genotype.random(0), num_classes=3, num_layers=2, in_channels=32, num_groups=2)
    shape = (32, 8, 3, 3)
    total = int(step_bytes(network, (7, *shape)) / memory.SHARE) + 100
    monkeypatch.setattr(memory.psutil, "virtual_memory", lambda: type("Memory", (), {"total": total}))
    assert largest_batch(network, shape, torch.device("cpu")) == 7


@pytest.mark.parametrize(
    "problem", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("x: can't allocate memory: y")]
)
def test_message_names_step_batch_and_T(problem):
    network = build_network(Genotype.random(0), num_classes=3, num_layers=2, in_channels=32, num_groups=2)
    device = torch.device("cpu")
    message = r"out of memory in a search step with data\.batch_size 8 and T = 16; .* use data\.batch_size=7"
    with pytest.raises(ModelError, match=message), explained_memory("search step", network, 8, (32, 16, 3, 3), device):
        raise problem


def test_other_errors_pass():
    network = nn.Linear(2, 2)
    with pytest.raises(RuntimeError, match="something else"):
        with explained_memory("search step", network, 8, (32, 16, 3, 3), torch.device("cpu")):
            raise RuntimeError("something else")
