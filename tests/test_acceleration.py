"""bfloat16 and torch.compile: used where they work, and said in one line where they do not."""

from __future__ import annotations

import logging

import pytest
import torch

from nni_nastc.acceleration import compile_network, usable_precision
from nni_nastc.bundle import load_bundle
from nni_nastc.training import train
from tests.toy import ToySet

CPU = torch.device("cpu")


GPU = torch.device("cuda", 0)


@pytest.mark.parametrize("device", [CPU, GPU])
@pytest.mark.parametrize("there", [True, False])
def test_bfloat16_where_the_hardware_has_it(device, there, monkeypatch, caplog):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: there)
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
    assert not compile_network(network, CPU)
    assert network._compiled_call_impl is None
    (record,) = caplog.records
    reason = "No working C++ compiler found"
    assert record.getMessage() == (
        f"trainer.compile is true, but torch.compile does not work here ({reason}); going on without"
    )


@pytest.mark.slow
def test_a_compiled_training_is_the_same(toy: ToySet, tmp_path):
    """Up to what dropout draws, and its checkpoint is an ordinary one."""
    runs = {}
    for name, trainer in (("plain", {}), ("compiled", {"compile": True}), ("repeatable", {"deterministic": True})):
        changes = {"genotype": "pool", "epochs": 1, "optimizer": {"learning_rate": 1e-4}}
        runs[name] = train(toy.train(tmp_path / name, trainer={"accelerator": "cpu", **trainer}, **changes))
        load_bundle(tmp_path / name)
    assert runs["compiled"]["train_loss"] == pytest.approx(runs["plain"]["train_loss"], rel=0.1)
    assert runs["repeatable"]["train_loss"] == runs["plain"]["train_loss"]


def test_a_search_goes_on_without_compiling(toy: ToySet, tmp_path, caplog):
    from nni_nastc.search.runner import run_search

    with caplog.at_level(logging.WARNING, "nni_nastc"):
        run_search(toy.search(tmp_path / "run", epochs=1, trainer={"accelerator": "cpu", "compile": True}))
    assert any("the passes of a supernet are written out" in record.getMessage() for record in caplog.records)
