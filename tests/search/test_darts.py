"""NNI's DARTS and GumbelDARTS on our cell."""

from __future__ import annotations

import pytest
import torch
from pytorch_lightning.callbacks import Callback

from nni_nastc.genotype import Genotype
from nni_nastc.search.darts import DARTS, GumbelDARTS, GumbelWeights
from nni_nastc.search.supernet import TempDartsCell
from nni_nastc.search.temp_darts import TempDARTS
from tests.nni_toys import toy_evaluator, toy_search, toy_space


def state_after(strategy) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    space = toy_space()
    toy_search(strategy, space)
    return space.state_dict()


def test_darts_is_temp_darts_without_clipping():
    darts = state_after(DARTS())
    unclipped = state_after(TempDARTS(gradient_clip_val=None))
    assert all(torch.equal(darts[name], tensor) for name, tensor in unclipped.items())
    clipped = state_after(TempDARTS(gradient_clip_val=1e-3))
    assert not all(torch.equal(darts[name], tensor) for name, tensor in clipped.items())


@pytest.mark.parametrize("tau", [0.1, 1.0, 10.0])
def test_drawn_weights_choose_by_softmax_and_sharpen_with_the_temperature(tau):
    """The largest weight is an operation's as often as its softmax says, at any temperature (the Gumbel-max trick)."""
    alphas = torch.tensor([0.0, 1.0, 2.0])
    softmax = GumbelWeights()
    softmax.tau = tau
    weights = softmax(alphas.expand(20_000, 3))
    assert torch.allclose(weights.sum(-1), torch.ones(20_000))
    frequencies = torch.bincount(weights.argmax(-1), minlength=3) / 20_000
    assert torch.allclose(frequencies, torch.tensor([0.0900, 0.2447, 0.6652]), atol=0.015), frequencies
    # Means of 2e6 draws made with NumPy's Gumbel noise.
    sharpness = {0.1: 0.966, 1.0: 0.708, 10.0: 0.381}[tau]
    assert weights.max(-1).values.mean().item() == pytest.approx(sharpness, abs=0.01)


def test_scores_see_no_noise():
    softmax = GumbelWeights().eval()
    softmax.tau = 0.5
    assert torch.allclose(softmax(torch.tensor([0.0, 1.0])), torch.tensor([0.1192, 0.8808]), atol=1e-4)


def test_every_cell_draws_its_weights_in_training_only():
    space = toy_space()
    toy_search(GumbelDARTS(), space, train=False)
    cells = [module for module in space.modules() if isinstance(module, TempDartsCell)]
    assert len(cells) == 2
    features = torch.randn(2, 16, 8, 2, 2)
    space.eval()
    assert torch.equal(space(features), space(features))
    for cell in cells:
        cell._softmax.train()
        assert not torch.equal(space(features), space(features))
        cell._softmax.eval()


class Temperatures(Callback):
    """Note the temperatures of all cells in every epoch."""

    def __init__(self) -> None:
        self.seen: list[set[float]] = []

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if batch_idx == 0:
            self.seen.append({m.tau for m in module.modules() if isinstance(m, GumbelWeights)})


def test_temperature_falls_linearly_over_the_epochs():
    spy, space, strategy = Temperatures(), toy_space(), GumbelDARTS(temperature=(2.0, 0.5))
    strategy.mutate_model(space)
    evaluator = strategy.mutate_evaluator(toy_evaluator([spy], 3))
    evaluator.evaluate(space)
    assert [list(seen) for seen in spy.seen] == [[2.0], [pytest.approx(1.5)], [pytest.approx(1.0)]]
    assert evaluator.module.epoch_values()["temperature"] == pytest.approx(1.0)


def test_gumbel_exports_a_valid_cell():
    genotype = Genotype.from_nni(toy_search(GumbelDARTS(), toy_space()).export())
    assert all(first[1] != second[1] for first, second in genotype.nodes)
