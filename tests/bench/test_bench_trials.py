"""Runs of a bench as trials: each in the bench's folder, where ``nastc bench`` takes it up."""

from __future__ import annotations

import json

import pytest
import yaml

from nni_nastc.bench.plan import choose_run, plan_runs, resolve
from nni_nastc.bench.runner import run_bench
from nni_nastc.config import BenchConfig, load_config
from nni_nastc.errors import ConfigError, ExperimentError, RunFolderError
from nni_nastc.search import trial
from nni_nastc.search.trial import run_trial


@pytest.fixture
def file(toy, tmp_path, monkeypatch):
    """A bench of one method and two seeds; trials write nothing beside it."""
    values = {"output": str(tmp_path / "bench"), "data": toy.data(), "methods": ["pool"], "seeds": 2, "epochs": 1}
    path = tmp_path / "bench.yaml"
    path.write_text(yaml.safe_dump(values | {"draws": 2, "trainer": {"accelerator": "cpu"}}))
    monkeypatch.setattr(trial, "DEFAULT_OUTPUT", tmp_path / "trial")
    return path


def test_trials_do_the_runs_and_the_bench_makes_the_table(file, tmp_path):
    for seed in (1, 0):
        result = run_trial("bench", str(file), ["run.method=pool", f"run.seed={seed}"])
        folder = tmp_path / "bench" / "runs" / "pool" / f"T8-seed{seed}"
        score = json.loads((folder / "evaluation" / "metrics.json").read_text())["accuracy"]
        assert (result["default"], result["seed"]) == (score, seed)
    assert list((tmp_path / "trial" / "tensorboard").iterdir())

    def never(config, run):
        raise AssertionError(f"{run.name} is finished")

    report = run_bench(load_config(BenchConfig, file), start=never)
    assert report.failed == {}
    (row,) = json.loads((tmp_path / "bench" / "table.json").read_text())["rows"]
    assert (row["method"], row["runs"]) == ("pool", 2)


def test_what_a_trial_refuses(file, tmp_path):
    with pytest.raises(ConfigError, match=r"run\.method must be one of pool, got 'lstm'; run\.seed .* 0, 1, got 7"):
        run_trial("bench", str(file), ["run.method=lstm", "run.seed=7"])
    with pytest.raises(ExperimentError, match=r"data\.store is not there"):
        run_trial("bench", str(file), ["run.method=pool", "run.seed=0", "data.store=nowhere"])
    assert not (tmp_path / "bench").exists()
    run_trial("bench", str(file), ["run.method=pool", "run.seed=0"])
    with pytest.raises(RunFolderError, match="another run.*epochs"):
        run_trial("bench", str(file), ["run.method=pool", "run.seed=1", "epochs=2"])


def test_the_run_that_is_chosen(file):
    config = resolve(load_config(BenchConfig, file, ["timesteps=[8, 16]"]))
    assert choose_run(config, method="pool", timesteps=16, seed=1) in plan_runs(config)
    with pytest.raises(ConfigError, match="run.timesteps must be one of 8, 16, got None"):
        choose_run(config, method="pool", timesteps=None, seed=1)
