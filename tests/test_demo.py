"""The whole chain, as the README's first command runs it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest


@pytest.mark.slow
@pytest.mark.usefixtures("kinetics400")
@pytest.mark.timeout(1800)
def test_demo(tmp_path):
    """The searched network tells the order of the parts; mean pooling cannot. Chance is 0.25."""
    out = tmp_path / "demo"
    command = [sys.executable, "-m", "nni_nastc", "demo", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    report = json.loads((out / "demo.json").read_text())
    print(done.stdout)
    assert report["accuracy"]["nas_tc"] >= 0.6
    assert report["accuracy"]["pool"] <= 0.5
    assert report["accuracy"]["chance"] == 0.25
    for name in ("search/cell.png", "search/alphas.png", "search/genotype.json", "nas_tc/model.safetensors"):
        assert (out / name).stat().st_size > 0
    assert "mean pooling" in done.stdout
    assert "Traceback" not in done.stderr

    before = (out / "search" / "history.json").stat().st_mtime_ns
    again = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert (out / "search" / "history.json").stat().st_mtime_ns == before, "what was done is not done again"


def test_random_weights_are_said_loudly(tmp_path, monkeypatch, capsys):
    from nni_nastc.cli import main as command_line

    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("nni_nastc.demo.run_demo", stop)
    assert command_line.main(["demo", "--out", str(tmp_path / "demo"), "--weights", "random"]) == 130
    assert "RANDOM" in capsys.readouterr().err
