"""What ``nastc bench speed`` measures is what it says, and it writes what others read."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch

from nni_nastc.acceleration import compiler_problem
from nni_nastc.cli.main import main
from nni_nastc.errors import ModelError
from nni_nastc.features import i3d
from nni_nastc.genotype import SEARCHED_OPERATIONS
from nni_nastc.search.temp_darts import TempDARTS
from nni_nastc.speed import report
from nni_nastc.speed.counting import count
from nni_nastc.speed.extraction import convolutions_alone
from nni_nastc.speed.measure import in_turns, summary
from nni_nastc.speed.report import measure_speed
from nni_nastc.speed.search_step import StepSize, measure_step
from nni_nastc.speed.stock import CANDIDATES, PublishedSupernet
from tests.search.test_supernet import supernet


def test_the_published_supernet_is_ours_in_another_form():
    """Same candidates in the same order, same parameters, same output for the same weights."""
    assert tuple(CANDIDATES) == SEARCHED_OPERATIONS
    ours = supernet(TempDARTS(), num_layers=2, in_channels=256, num_groups=2)
    theirs = PublishedSupernet(3, 2, 256).double()
    weights = [p for n, p in ours.named_parameters() if "alpha" not in n and "head" not in n]
    mine = [p for n, p in theirs.named_parameters() if "alpha" not in n and "head" not in n]
    assert [p.numel() for p in mine] == [p.numel() for p in weights]
    with torch.no_grad():
        for target, source in zip(mine, weights, strict=True):
            target.copy_(source.view_as(target))
        rows = next(m for m in ours.modules() if hasattr(m, "alphas")).alphas
        theirs.alphas.copy_(rows)
        theirs.head.load_state_dict(ours.head.state_dict())
    x = torch.randn(2, 256, 8, 3, 3, dtype=torch.float64)
    torch.testing.assert_close(theirs.eval()(x), ours.eval()(x), rtol=1e-9, atol=1e-12)


def test_turns_leave_out_the_first_and_alternate():
    calls = []
    times = iter([9.0, 9.0, 1.0, 2.0, 3.0, 4.0])

    def measure(name: str) -> float:
        calls.append(name)
        return next(times)

    measured = in_turns({"a": lambda: measure("a"), "b": lambda: measure("b")}, 2, lambda name: None)
    assert calls == ["a", "b"] * 3
    assert measured == {"a": [1.0, 3.0], "b": [2.0, 4.0]}
    assert in_turns({"c": lambda: 5.0}, 2, lambda name: None, warm_up=False) == {"c": [5.0, 5.0]}
    assert summary([3.0, 1.0, 2.0]) == {"median_s": 2.0, "min_s": 1.0, "max_s": 3.0, "repeats": 3}


def test_peak_memory_is_what_was_taken():
    """In a process of its own: other tests leave freed memory, which can be taken without a rise."""
    code = """
import torch
from nni_nastc.speed.measure import peak_memory
print(peak_memory(lambda: torch.ones(300 * 2**20, dtype=torch.uint8), torch.device("cpu")))
"""
    printed = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert 0.9 < int(printed) / (300 * 2**20) < 1.3


def test_counted_by_hand():
    a, b, c = torch.randn(3, 5), torch.randn(5, 7), torch.randn(3, 7)
    counted = count(lambda: a @ b)
    assert counted.operations == 2 * 3 * 5 * 7
    assert counted.bytes == 4 * (3 * 5 + 5 * 7 + 3 * 7)
    in_place = count(lambda: c.addmm_(a, b))
    assert in_place.operations == 2 * 3 * 5 * 7
    assert count(lambda: a.t()).bytes == 0
    assert count(lambda: torch.mm(a, b, out=c)).bytes == counted.bytes, "what is written into is written once"


def test_a_process_that_fails_says_why():
    size = StepSize(batch=2, timesteps=8, layers=2, channels=64, device="cuda:99")
    with pytest.raises(ModelError, match=r"no search step of ours with batch 2 and T = 8 \(.*no such GPU: cuda:99"):
        measure_step("ours", size)


def test_a_process_that_was_killed_is_told_as_such(monkeypatch):
    killed = subprocess.CompletedProcess([], -9, stdout="", stderr="DeprecationWarning: old\n  warnings.warn(\n")
    monkeypatch.setattr(subprocess, "run", lambda *command, **options: killed)
    with pytest.raises(ModelError, match=r"T = 8 \(it ended with -9\); give a smaller --batch or --timesteps"):
        measure_step("ours", StepSize(batch=2, timesteps=8))


def test_interrupted_it_promises_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(report, "measure_speed", lambda *out, **options: (_ for _ in ()).throw(KeyboardInterrupt))
    assert main(["bench", "speed", "--out", str(tmp_path / "out")]) == 130
    assert capsys.readouterr().err.endswith("nastc bench: interrupted\n")


@pytest.mark.slow
def test_the_command_writes_what_others_read(tmp_path, capsys):
    command = ["bench", "speed", "--out", str(tmp_path), "--batch", "2", "--timesteps", "8", "--repeats", "1"]
    assert main([*command, "--channels", "64", "--layers", "2", "--device", "cpu"]) == 0
    result = json.loads((tmp_path / "speed.json").read_text())
    step = result["search_step"]
    assert step["speedup_vs_stock_nni"] == step["stock_nni"]["median_s"] / step["ours"]["median_s"]
    assert step["memory_ratio_vs_stock_nni"] == step["memory_bytes"]["ours"] / step["memory_bytes"]["stock_nni"]
    assert step["size"] == {
        "batch": 2, "timesteps": 8, "layers": 2, "channels": 64, "classes": 157, "device": "cpu",
    }  # fmt: skip
    assert step["memory_ratio_vs_stock_nni"] < 1
    assert step["counted_operations"] > 0
    assert "stock NNI" in capsys.readouterr().out
    assert "DARTS as published" in (tmp_path / "table.md").read_text()
    extraction = result["extraction"]
    alone = extraction["convolutions"]["median_s"]
    assert extraction["convolutions_fraction"] == alone / extraction["ours"]["median_s"]
    assert ("compiled" in result["fixed_network"]["training"]) != bool(compiler_problem(torch.device("cpu")))
    assert result["filters"] == [], "there is one way on a CPU"


def test_convolutions_alone_are_all_of_them(monkeypatch):
    computed, convolve = [], i3d._convolve
    monkeypatch.setattr(i3d, "_convolve", lambda *given: computed.append(result := convolve(*given)) or result)
    model, clip = i3d.I3D().eval().folded(), torch.rand(1, 3, 8, 32, 32)
    alone = convolutions_alone(model, clip)
    whole = [result.shape for result in computed]
    computed.clear()
    alone()
    assert [result.shape for result in computed] == whole
    assert len(whole) == 3 + 9 * 6, "of the stem, and of nine Inception modules"
    assert all(result.min() < 0 for result in computed), "without the ReLU"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"batch": 1}, "batch of 2 or more.*got batch 1"),
        ({"timesteps": (12,)}, "T = 12 with L = 3"),
        ({"device": "cuda:9"}, "no such GPU"),
    ],
)
def test_refused_before_the_start(tmp_path, wrong, message):
    with pytest.raises(ValueError, match=message):
        measure_speed(tmp_path / "out", **wrong)
    assert not (tmp_path / "out").exists()
