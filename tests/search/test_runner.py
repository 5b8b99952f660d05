"""A search from its configuration to its files, resumed, refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml

from nni_nastc.config import SearchConfig, dump_config, load_config
from nni_nastc.errors import DataError, ModelError, RunFolderError
from nni_nastc.evaluation.history import HISTORY_FILE, STATE_FILE
from nni_nastc.genotype import EDGES, Genotype
from nni_nastc.search.mixed_cell import MixedCell
from nni_nastc.search.runner import run_search
from nni_nastc.search.supernet import derive
from tests.toy import ToySet, history_of, without_times

ROOT = Path(__file__).parents[2]


def epochs_of(folder: Path) -> int:
    return len(history_of(folder)["epochs"]) if (folder / HISTORY_FILE).exists() else 0


def test_result_is_complete(toy: ToySet, tmp_path):
    genotype = run_search(toy.search(tmp_path / "run"))
    folder = tmp_path / "run"
    assert {path.name for path in folder.iterdir()} == {
        "alphas.png", "cell.png", "config.yaml", "environment.json", "genotype.json", "history.json", "history.png",
        "last.ckpt", "split.json",
    }  # fmt: skip
    assert Genotype.from_json(folder / "genotype.json") == genotype
    assert "TempDARTS, 2 epochs on the 24 training videos" in genotype.origin
    history = history_of(folder)
    assert [entry["epoch"] for entry in history["epochs"]] == [0, 1]
    assert history["edges"] == [list(edge) for edge in EDGES]
    assert history["operations"] == ["identity", "max_pool", "dil_conv_3", "sep_conv_3", "zero"]
    alphas = torch.tensor(history["epochs"][-1]["alphas"])
    assert alphas.shape == (14, 5)
    assert derive(alphas, history["operations"][:-1]) == genotype
    for entry in history["epochs"]:
        assert {"train_loss", "alpha_loss", "val_loss", "val_score", "learning_rate", "seconds"} <= set(entry)
        assert 0 <= entry["val_score"] <= 1
    assert history["epochs"][0]["train_loss"] != history["epochs"][0]["alpha_loss"]
    assert load_config(SearchConfig, folder / "config.yaml") == toy.search(tmp_path / "run")
    environment = json.loads((folder / "environment.json").read_text())
    assert environment["packages"]["nni"] == "3.0"


def test_halves_are_disjoint_and_never_the_test_part(toy: ToySet, tmp_path):
    run_search(toy.search(tmp_path / "run", epochs=1))
    split = json.loads((tmp_path / "run" / "split.json").read_text())
    videos = json.loads(toy.annotations.read_text())["videos"]
    weights, alphas = set(split["weights"]), set(split["alphas"])
    assert not weights & alphas
    assert weights | alphas == {name for name, video in videos.items() if video["subset"] == "train"}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["TempDARTS", "Proxyless", "ENAS"])
def test_killed_search_resumes_to_the_same_end(toy: ToySet, tmp_path, name):
    """kill -9 of the command itself, in the middle of an epoch."""
    unbroken = run_search(toy.search(tmp_path / "unbroken", epochs=8, strategy={"name": name}))
    config = toy.search(tmp_path / "killed", epochs=8, strategy={"name": name})
    path = tmp_path / "config.yaml"
    path.write_text(dump_config(config))
    command = [sys.executable, "-m", "nni_nastc", "search", str(path)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and epochs_of(tmp_path / "killed") < 2:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert (tmp_path / "killed" / STATE_FILE).exists()
    assert not (tmp_path / "killed" / "genotype.json").exists(), "it ended before it was killed"
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    assert Genotype.from_json(tmp_path / "killed" / "genotype.json") == unbroken
    assert without_times(history_of(tmp_path / "killed")) == without_times(history_of(tmp_path / "unbroken"))


def test_finished_search_is_not_done_again(toy: ToySet, tmp_path):
    config = toy.search(tmp_path / "run", epochs=1)
    first = run_search(config)
    before = (tmp_path / "run" / HISTORY_FILE).stat().st_mtime_ns
    assert run_search(config) == first
    assert (tmp_path / "run" / HISTORY_FILE).stat().st_mtime_ns == before


def test_folder_of_another_run_is_refused(toy: ToySet, tmp_path):
    run_search(toy.search(tmp_path / "run", epochs=1))
    with pytest.raises(RunFolderError, match=r"holds another run \(other values of data.batch_size, epochs\)"):
        run_search(toy.search(tmp_path / "run", epochs=2, data=toy.data() | {"batch_size": 4}))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("dear")
    with pytest.raises(RunFolderError, match="holds other files"):
        run_search(toy.search(tmp_path / "full"))


def test_refused_before_the_folder_is_made(toy: ToySet, tmp_path):
    with pytest.raises(ModelError, match="T = 6 with L = 2"):
        run_search(toy.search(tmp_path / "run", data=toy.data() | {"timesteps": 6}))
    assert not (tmp_path / "run").exists()


def test_annotated_videos_that_are_missing_in_the_store(toy: ToySet, tmp_path):
    content = json.loads(toy.annotations.read_text())
    label = content["classes"][0]
    content["videos"] |= {f"lost_{n}": {"subset": "train", "labels": [label]} for n in range(3)}
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match="missing"):
        run_search(toy.search(tmp_path / "run", data=toy.data() | {"annotations": str(path)}))
    assert not (tmp_path / "run").exists()


def test_seed_changes_the_search(toy: ToySet, tmp_path):
    run_search(toy.search(tmp_path / "one", epochs=1))
    run_search(toy.search(tmp_path / "other", epochs=1, seed=1))
    assert without_times(history_of(tmp_path / "one")) != without_times(history_of(tmp_path / "other"))


def test_resolved_configuration_is_plain_yaml(toy: ToySet, tmp_path):
    run_search(toy.search(tmp_path / "run", epochs=1))
    values = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert values["optimizer"]["momentum"] == 0.9


def test_too_little_memory_says_what_fits(toy: ToySet, tmp_path, monkeypatch):
    forward = MixedCell.forward

    def exhausted(ctx, plan, weights, *rest):
        if weights.is_meta:  # it is being counted
            return forward(ctx, plan, weights, *rest)
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("nni_nastc.search.mixed_cell.MixedCell.forward", staticmethod(exhausted))
    message = r"out of memory in a search step with data\.batch_size 6 and T = 8; .*use data\.batch_size=5"
    with pytest.raises(ModelError, match=message):
        run_search(toy.search(tmp_path / "run"))
