"""Every one-shot strategy from its name in a configuration to the files of the result, and resumed."""

from __future__ import annotations

import json

import pytest

from nni_nastc.evaluation.history import EpochSeed
from nni_nastc.genotype import Genotype
from nni_nastc.search import one_shot, runner
from nni_nastc.search.judging import SAMPLES_FILE
from nni_nastc.search.runner import run_search
from tests.toy import StopAfter, ToySet, history_of, without_times

STRATEGIES = {
    "TempDARTS": {},
    "DARTS": {},
    "GumbelDARTS": {},
    "Proxyless": {"arc_learning_rate": 0.1},
    "RandomOneShot": {"samples": 4},
    "ENAS": {"samples": 4, "batches_per_update": 3, "policy_learning_rate": 0.1},
}
FILES = {
    "cell.png", "config.yaml", "environment.json", "genotype.json", "history.json", "history.png", "last.ckpt",
    "split.json",
}  # fmt: skip


def strategy_of(name: str) -> dict:
    return {"name": name, **STRATEGIES[name]}


@pytest.fixture
def _no_pictures(monkeypatch):
    """Leave out the pictures, which take longer than the toy searches."""
    monkeypatch.setattr(runner, "draw_cell", lambda *_: None)
    for name in ("draw_alphas", "draw_history"):
        monkeypatch.setattr(one_shot, name, lambda *_, **__: None)


@pytest.mark.parametrize("name", list(STRATEGIES))
def test_ends_in_a_valid_cell_with_all_files(toy: ToySet, tmp_path, name):
    genotype = run_search(toy.search(tmp_path / "run", epochs=1, strategy=strategy_of(name)))
    sampled = name in ("RandomOneShot", "ENAS")
    assert {path.name for path in (tmp_path / "run").iterdir()} == FILES | {SAMPLES_FILE if sampled else "alphas.png"}
    assert Genotype.from_json(tmp_path / "run" / "genotype.json") == genotype
    assert all(first[1] != second[1] for first, second in genotype.nodes)
    assert set(genotype.operations) <= {"identity", "max_pool", "dil_conv_3", "sep_conv_3"}
    assert genotype.origin.startswith(f"{name}, 1 epochs on the 24 training videos")
    (epoch,) = history_of(tmp_path / "run")["epochs"]
    assert {"train_loss", "val_loss", "val_score", "learning_rate", "seconds"} <= set(epoch)
    assert ("alphas" in epoch) != sampled


@pytest.mark.usefixtures("_no_pictures")
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name == "TempDARTS" else pytest.mark.slow) for name in STRATEGIES]
)
def test_stopped_search_resumes_to_the_same_end(toy: ToySet, tmp_path, name):
    """Drawn paths, rewards that wait for an update, and the optimisers' states included."""
    unbroken = run_search(toy.search(tmp_path / "unbroken", epochs=3, strategy=strategy_of(name)))
    config = toy.search(tmp_path / "broken", epochs=3, strategy=strategy_of(name))
    with pytest.raises(RuntimeError, match="stopped by the test"):
        run_search(config, [StopAfter(2)])
    assert len(history_of(tmp_path / "broken")["epochs"]) == 2
    assert not (tmp_path / "broken" / "genotype.json").exists()
    assert run_search(config) == unbroken
    assert without_times(history_of(tmp_path / "broken")) == without_times(history_of(tmp_path / "unbroken"))
    if (samples := tmp_path / "unbroken" / SAMPLES_FILE).exists():
        assert (tmp_path / "broken" / SAMPLES_FILE).read_text().replace("broken", "unbroken") == samples.read_text()


@pytest.mark.usefixtures("_no_pictures")
@pytest.mark.parametrize("name", list(STRATEGIES))
def test_mixed_precision(toy: ToySet, tmp_path, monkeypatch, name):
    monkeypatch.setattr("nni_nastc.acceleration.has_bfloat16", lambda device: True)
    trainer = {"accelerator": "cpu", "precision": "bf16-mixed"}
    run_search(toy.search(tmp_path / "run", strategy=strategy_of(name), trainer=trainer))
    assert len(history_of(tmp_path / "run")["epochs"]) == 2


@pytest.mark.usefixtures("_no_pictures")
def test_second_order_takes_full_precision(toy: ToySet, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("nni_nastc.acceleration.has_bfloat16", lambda device: True)
    trainer = {"accelerator": "cpu", "precision": "bf16-mixed"}
    rough = run_search(toy.search(tmp_path / "rough", epochs=1, strategy={"order": 2}, trainer=trainer))
    assert "too coarse for the differences of strategy.order 2; searching with 32-true" in caplog.text
    exact = run_search(toy.search(tmp_path / "exact", epochs=1, strategy={"order": 2}))
    assert without_times(history_of(tmp_path / "rough")) == without_times(history_of(tmp_path / "exact"))
    assert rough == exact


@pytest.mark.slow
@pytest.mark.usefixtures("_no_pictures")
@pytest.mark.parametrize("name", ["RandomOneShot", "ENAS"])
def test_search_stopped_among_its_samples_resumes_to_the_same_end(toy: ToySet, tmp_path, monkeypatch, name):
    unbroken = run_search(toy.search(tmp_path / "unbroken", epochs=2, strategy=strategy_of(name)))
    config = toy.search(tmp_path / "broken", epochs=2, strategy=strategy_of(name))
    with monkeypatch.context() as patch:
        patch.setattr(one_shot, "judge", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run_search(config)
    with monkeypatch.context() as patch:
        patch.setattr(EpochSeed, "on_train_epoch_start", lambda *_: pytest.fail("an epoch was done again"))
        assert run_search(config) == unbroken
    samples = [json.loads((tmp_path / run / SAMPLES_FILE).read_text())["samples"] for run in ("unbroken", "broken")]
    assert samples[0] == samples[1]
    assert [Genotype.from_dict(cell["genotype"]) for cell in samples[0]][0] == unbroken
    assert samples[0] == sorted(samples[0], key=lambda cell: (-cell["score"], cell["loss"]))
    assert len(samples[0]) == 4
