"""The second-order step against autograd, on a supernet that is small enough to be differentiated twice."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.func import functional_call

from nni_nastc.evaluation.scoring import loss_of
from nni_nastc.search import second_order, supernet
from nni_nastc.search.second_order import SecondOrderModule
from nni_nastc.search.temp_darts import TempDARTS
from nni_nastc.space.network import NasTCSpace
from tests.nni_toys import toy_search


class Stopped(Exception):
    """The step that is looked at has been taken."""


def batch(seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(4, 16, 8, 2, 2, generator=generator, dtype=torch.float64)
    return {"features": features, "target": torch.tensor([0, 1, 2, 1]), "index": torch.arange(4)}


def oracle(model: nn.Module, alphas: list[torch.Tensor], rate: float) -> list[torch.Tensor]:
    """d L_val(w - rate dL_train/dw, alphas) / d alphas, differentiated through the step."""
    parameters = dict(model.named_parameters())
    ids = {id(alpha) for alpha in alphas}
    weights = {name: p for name, p in parameters.items() if id(p) not in ids}

    def loss(values: dict[str, torch.Tensor], data: dict[str, torch.Tensor]) -> torch.Tensor:
        return loss_of("single-label", functional_call(model, values, data["features"]), data["target"])

    gradients = torch.autograd.grad(loss(parameters, batch(1)), list(weights.values()), create_graph=True)
    moved = {name: p - rate * g for (name, p), g in zip(weights.items(), gradients, strict=True)}
    return list(torch.autograd.grad(loss({**parameters, **moved}, batch(2)), alphas))


@pytest.fixture
def plain_cells(monkeypatch):
    """The folded cell has no second derivative."""
    monkeypatch.setattr(supernet, "plan_cell", lambda *arguments, **options: None)


def test_gradient_is_that_of_the_unrolled_step(plain_cells, monkeypatch):
    # In double precision the finite difference can be fine enough to be compared.
    monkeypatch.setattr(second_order, "STEP", 1e-5)
    found: dict[str, Any] = {}
    rate = 0.1  # of the toy evaluator's SGD

    def step(self: SecondOrderModule, batches: Any, batch_idx: int) -> torch.Tensor:
        model = self.training_module.double().model
        self.training_module.training_step = lambda data, _: loss_of(
            "single-label", model(data["features"]), data["target"]
        )
        for module in self.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        with torch.no_grad():
            for alpha in self.arch_parameters():
                alpha.normal_(std=0.5)
        found["before"] = [p.clone() for p in self.weight_parameters()]
        found["buffers"] = {name: b.clone() for name, b in self.training_module.named_buffers()}
        found["expected"] = oracle(model, self.arch_parameters(), rate)
        for name, buffer in self.training_module.named_buffers():
            buffer.data.copy_(found["buffers"][name])
        self._alpha_step({"train": batch(1), "val": batch(2)}, batch_idx)
        found["gradients"] = [alpha.grad.clone() for alpha in self.arch_parameters()]
        found["after"] = [p.clone() for p in self.weight_parameters()]
        found["buffers_after"] = {name: b.clone() for name, b in self.training_module.named_buffers()}
        loss = self.training_module.training_step(batch(2), 0)
        found["first_order"] = torch.autograd.grad(loss, self.arch_parameters())
        raise Stopped

    monkeypatch.setattr(SecondOrderModule, "training_step", step)
    space = NasTCSpace(num_classes=3, num_layers=1, in_channels=16, num_groups=2, operations=("identity", "dil_conv_3"))
    with pytest.raises(Stopped):
        toy_search(TempDARTS(order=2), space)
    for gradient, expected in zip(found["gradients"], found["expected"], strict=True):
        torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-6)
    differences = [(a - b).abs().max() for a, b in zip(found["expected"], found["first_order"], strict=True)]
    assert max(differences) > 1e-3, "the two orders must differ for the test to tell them apart"
    for before, after in zip(found["before"], found["after"], strict=True):
        assert torch.equal(before, after), "the alpha step moved a weight"
    for name, buffer in found["buffers_after"].items():
        assert torch.equal(buffer, found["buffers"][name]), f"the alpha step changed {name}"


def test_a_search_of_second_order_moves_alphas_and_weights():
    torch.manual_seed(0)
    space = NasTCSpace(num_classes=3, num_layers=1, in_channels=16, num_groups=2, operations=("identity", "dil_conv_3"))
    module = toy_search(TempDARTS(order=2), space)
    assert isinstance(module, SecondOrderModule)
    assert module.alphas().abs().max() > 1e-4
    assert module.alphas().isfinite().all()
