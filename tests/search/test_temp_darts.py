"""Temp-DARTS as a strategy of NNI: steps, gradients, derivation."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning.callbacks import Callback

from nni_nastc.errors import GenotypeError
from nni_nastc.genotype import SEARCHED_OPERATIONS, Genotype
from nni_nastc.search.supernet import derive
from nni_nastc.search.temp_darts import TempDARTS, TempDartsLightningModule
from nni_nastc.space.network import NasTCSpace
from tests.nni_toys import toy_evaluator

ROOT = Path(__file__).parents[2]


def search(callbacks: list[Callback], **options: Any) -> tuple[TempDartsLightningModule, NasTCSpace]:
    """Run a search of one epoch (two batches) through NNI's strategy interface."""
    space = NasTCSpace(num_classes=3, num_layers=2, in_channels=16)
    strategy = TempDARTS(**options)
    strategy.mutate_model(space)
    evaluator = strategy.mutate_evaluator(toy_evaluator(callbacks))
    evaluator.evaluate(space)
    return evaluator.module, space


class StepSpy(Callback):
    """Note at each optimiser step whether it is one of the alphas."""

    def __init__(self) -> None:
        self.alpha_steps: list[bool] = []

    def on_before_optimizer_step(self, trainer: Any, module: TempDartsLightningModule, optimizer: Any) -> None:
        alphas = {id(p) for p in module.arch_parameters()}
        self.alpha_steps.append(all(id(p) in alphas for group in optimizer.param_groups for p in group["params"]))


def test_alpha_and_weight_steps_alternate():
    spy = StepSpy()
    search([spy])
    assert spy.alpha_steps == [True, False, True, False]


def test_alpha_step_computes_no_weight_gradients_and_the_reverse(monkeypatch):
    computed = []
    backward = TempDartsLightningModule.manual_backward

    def spy(self, loss, *args, **kwargs):
        for p in self.parameters():
            p.grad = None
        backward(self, loss, *args, **kwargs)
        computed.append(
            (
                any(p.grad is not None for p in self.arch_parameters()),
                any(p.grad is not None for p in self.weight_parameters()),
            )
        )

    monkeypatch.setattr(TempDartsLightningModule, "manual_backward", spy)
    search([])
    assert computed == [(True, False), (False, True)] * 2


def test_alphas_and_weights_both_move():
    torch.manual_seed(0)
    module, space = search([])
    alphas = module.alphas()
    assert alphas.abs().max() > 1e-4
    assert len(module.arch_parameters()) == 14
    assert not {id(p) for p in module.arch_parameters()} & {id(p) for p in module.weight_parameters()}
    assert len(module.weight_parameters()) + 14 == len(list(module.training_module.parameters()))


def test_warmup_leaves_the_alphas():
    spy = StepSpy()
    search([spy], warmup_epochs=1)
    assert spy.alpha_steps == [False, False]


def test_alphas_keep_their_order_whatever_their_address():
    """The optimiser of a resumed run finds each alpha's state by its place."""
    space = NasTCSpace(num_classes=3, num_layers=2, in_channels=16)
    strategy = TempDARTS()
    strategy.mutate_model(space)
    module = strategy.mutate_evaluator(toy_evaluator([])).module
    module.set_model(space)
    cell = space.layers[0].cell
    assert all(a is b for a, b in zip(module.arch_parameters(), cell._arch_alpha.values(), strict=True))


def test_alpha_step_equals_nnis_own(monkeypatch):
    """Freezing what a step does not train changes no value: the same state after the same batches."""
    states = []
    for ours in (True, False):
        torch.manual_seed(3)
        space = NasTCSpace(num_classes=3, num_layers=2, in_channels=16)
        strategy = TempDARTS(gradient_clip_val=5.0)
        strategy.mutate_model(space)
        evaluator = strategy.mutate_evaluator(toy_evaluator([]))
        if not ours:
            stock = TempDartsLightningModule.__mro__[1]
            monkeypatch.setattr(TempDartsLightningModule, "training_step", stock.training_step)
            monkeypatch.setattr(TempDartsLightningModule, "log_probs", lambda self, probs: None)
        torch.manual_seed(4)
        evaluator.evaluate(space)
        states.append({name: tensor.clone() for name, tensor in space.state_dict().items()})
    for name, tensor in states[0].items():
        assert torch.equal(tensor, states[1][name]), name


def test_exported_cell_has_distinct_predecessors_and_no_zero():
    module, _ = search([])
    genotype = Genotype.from_nni(module.export())
    assert "zero" not in genotype.operations
    assert all(first[1] != second[1] for first, second in genotype.nodes)


def test_runs_in_a_nas_experiment(tmp_path):
    """NNI's own way to run a strategy, in a process of its own since it keeps global state."""
    code = (
        "from nni.nas.experiment import NasExperiment\n"
        "from tests.nni_toys import toy_evaluator\n"
        "from tests.search.test_temp_darts import NasTCSpace, TempDARTS, Genotype\n"
        "space = NasTCSpace(num_classes=3, num_layers=2, in_channels=16)\n"
        "experiment = NasExperiment(space, toy_evaluator([]), TempDARTS())\n"
        f"experiment.config.experiment_working_directory = {str(tmp_path)!r}\n"
        "experiment.run()\n"
        "best = experiment.export_top_models(formatter='dict')[0]\n"
        "print('OPERATIONS', len(Genotype.from_nni(best).operations))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, cwd=ROOT)
    assert "OPERATIONS 8" in done.stdout, done.stdout + done.stderr


def test_alphas_of_a_diverged_search_give_no_cell():
    alphas = torch.zeros(14, 9)
    alphas[3, 2] = torch.nan
    with pytest.raises(GenotypeError, match="NaN or infinite"):
        derive(alphas, SEARCHED_OPERATIONS)
