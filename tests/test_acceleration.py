"""bfloat16 and torch.compile: used where they work, and said in one line where they do not."""

from __future__ import annotations

import logging

import pytest
import torch
import yaml
from pytorch_lightning.callbacks import Callback

from nni_nastc import acceleration
from nni_nastc.acceleration import compile_network, compiler_problem, usable_precision
from nni_nastc.bundle import load_bundle
from nni_nastc.search.runner import run_search
from nni_nastc.search.trial_files import TrialFiles, trial_config
from nni_nastc.training import train
from tests.toy import ToySet

CPU = torch.device("cpu")


GPU = torch.device("cuda", 0)


@pytest.mark.parametrize("device", [CPU, GPU])
@pytest.mark.parametrize("there", [True, False])
def test_bfloat16_where_the_hardware_has_it(device, there, monkeypatch, caplog):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0) if there else (7, 5))
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: there)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "An Old GPU")
    assert usable_precision("32-true", device) == "32-true"
    assert not caplog.records
    assert usable_precision("bf16-mixed", device) == ("bf16-mixed" if there else "32-true")
    name = "this CPU" if device is CPU else "An Old GPU"
    assert [record.getMessage() for record in caplog.records] == (
        [] if there else [f"trainer.precision is bf16-mixed, which {name} does not have; training with 32-true"]
    )


def test_without_a_compiler_the_network_stays_as_it_is(monkeypatch, caplog):
    def fail(function):
        raise RuntimeError("\nNo working C++ compiler found\nSet TORCHDYNAMO_VERBOSE=1 for more")

    monkeypatch.setattr(torch, "compile", fail)
    network = torch.nn.Linear(2, 2)
    compile_network(network, CPU)
    assert network._compiled_call_impl is None
    (record,) = caplog.records
    reason = "No working C++ compiler found"
    assert record.getMessage() == (
        f"trainer.compile is true, but torch.compile does not work here ({reason}); going on without"
    )


class Watch(Callback):
    """What the first step of a training ran with."""

    compiled = deterministic = False

    def on_train_batch_end(self, trainer, module, *_) -> None:
        self.compiled = any(m._compiled_call_impl is not None for m in module.modules())
        self.deterministic = torch.are_deterministic_algorithms_enabled()


@pytest.mark.slow
@pytest.mark.skipif(bool(compiler_problem(CPU)), reason="torch.compile needs a C++ compiler")
def test_a_compiled_training_is_the_same(toy: ToySet, tmp_path):
    """Up to what dropout draws, and its checkpoint is an ordinary one."""
    runs = {}
    for name, compiled in (("plain", False), ("compiled", True)):
        changes = {"genotype": "pool", "epochs": 1, "optimizer": {"learning_rate": 1e-4}}
        watch = Watch()
        config = toy.train(tmp_path / name, trainer={"accelerator": "cpu", "compile": compiled}, **changes)
        runs[name] = train(config, [watch])
        assert watch.compiled == compiled
        load_bundle(tmp_path / name)
    assert runs["compiled"]["train_loss"] == pytest.approx(runs["plain"]["train_loss"], rel=0.1)


@pytest.mark.parametrize("kind", ["train", "search"])
def test_deterministic_mode_ends_with_the_run(toy: ToySet, tmp_path, kind):
    for deterministic in (True, False):
        watch, folder = Watch(), tmp_path / str(deterministic)
        trainer = {"accelerator": "cpu", "deterministic": deterministic}
        if kind == "train":
            train(toy.train(folder, genotype="pool", epochs=1, trainer=trainer), [watch])
        else:
            run_search(toy.search(folder, epochs=1, trainer=trainer), [watch])
        assert watch.deterministic == deterministic
        assert not torch.are_deterministic_algorithms_enabled()


def test_the_precision_that_was_used_is_recorded(toy: ToySet, tmp_path, monkeypatch):
    monkeypatch.setattr(acceleration, "has_bfloat16", lambda device: False)
    asked = {"accelerator": "cpu", "precision": "bf16-mixed"}
    train(toy.train(tmp_path / "train", genotype="pool", epochs=1, trainer=asked))
    run_search(toy.search(tmp_path / "search", epochs=1, trainer=asked))
    for folder in ("train", "search"):
        recorded = yaml.safe_load((tmp_path / folder / "config.yaml").read_text())
        assert recorded["trainer"]["precision"] == "32-true"
    bundle, _ = load_bundle(tmp_path / "train")
    assert bundle.training["config"]["trainer"]["precision"] == "32-true"


def test_a_search_goes_on_without_compiling(toy: ToySet, tmp_path, caplog):
    with caplog.at_level(logging.WARNING, "nni_nastc"):
        run_search(toy.search(tmp_path / "run", epochs=1, trainer={"accelerator": "cpu", "compile": True}))
    assert any("for fixed networks only; searching without it" in record.getMessage() for record in caplog.records)


def test_trials_train_as_the_search_says(toy: ToySet, tmp_path):
    trainer = {"accelerator": "cpu", "compile": True, "deterministic": True, "precision": "bf16-mixed"}
    config = toy.search(tmp_path / "run", strategy={"name": "Random"}, trainer=trainer)
    trial = trial_config(config, TrialFiles(tmp_path / "run", 0))
    assert trial.trainer.model_dump(include=set(trainer)) == trainer
