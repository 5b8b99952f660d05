"""The folder of a run: who may work in it, and what its files may hold when a run goes on."""

from __future__ import annotations

import json
import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from nni_nastc.bundle import load_bundle, save_bundle
from nni_nastc.config import EvaluateConfig, SpaceConfig
from nni_nastc.errors import CheckpointError, ConfigError, DataError, ModelError, RunFolderError
from nni_nastc.evaluate import complete
from nni_nastc.runs import open_run
from nni_nastc.search.runner import run_search
from nni_nastc.training import train
from tests.toy import ToySet

CONFIG = SpaceConfig()


class RunsCode:
    """Makes a file when it is unpickled freely."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def run(command: str, toy: ToySet, output: Path, **changes):
    """Search or train."""
    return run_search(toy.search(output, **changes)) if command == "search" else train(toy.train(output, **changes))


@pytest.fixture(scope="module")
def stopped(tmp_path_factory) -> tuple[ToySet, Path]:
    """Toy data, and the folder of a training that lacks its result."""
    folder = tmp_path_factory.mktemp("stopped")
    toy = ToySet.make(folder / "toy")
    train(toy.train(folder / "run"))
    (folder / "run" / "metrics.json").unlink()
    return toy, folder / "run"


@pytest.fixture
def again(stopped, tmp_path):
    """Change a file of a stopped run, and give the same command again in a copy of its folder."""
    toy, folder = stopped

    def go_on(name: str, content: bytes | None) -> dict:
        copy = tmp_path / "run"
        shutil.copytree(folder, copy)
        (copy / "config.yaml").write_text((copy / "config.yaml").read_text().replace(str(folder), str(copy)))
        if content is not None:
            (copy / name).write_bytes(content)
        return train(toy.train(copy))

    return go_on


def test_one_process_at_a_time(tmp_path):
    with open_run(tmp_path / "run", CONFIG, "result") as finished:
        assert not finished
        with pytest.raises(RunFolderError, match="another process is at work in the output folder"):
            open_run(tmp_path / "run", CONFIG, "result").__enter__()
    with open_run(tmp_path / "run", CONFIG, "result") as finished:
        assert not finished


def test_other_processes_of_a_distributed_run_are_let_in(tmp_path, monkeypatch):
    with open_run(tmp_path / "run", CONFIG, "result"):
        monkeypatch.setenv("LOCAL_RANK", "1")
        with open_run(tmp_path / "run", CONFIG, "result"):
            pass


@pytest.mark.parametrize("name", ["x" * 300, "a\0b", "file/below"])
def test_folders_that_cannot_be_made(tmp_path, name):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match="cannot be made"):
        open_run(tmp_path / name, CONFIG, "result").__enter__()


def test_an_untouched_folder_goes_on(again):
    assert again("", None)["epochs"] == 2


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"junk", b"\0" * 99], ids=repr)
def test_damaged_state(again, content):
    with pytest.raises(CheckpointError, match=r"cannot go on from .*last\.ckpt .*remove it") as caught:
        again("last.ckpt", content)
    assert "\n" not in str(caught.value)


def test_state_that_would_run_code(again, tmp_path):
    with pytest.raises(CheckpointError, match="cannot go on"):
        again("last.ckpt", pickle.dumps(RunsCode(tmp_path / "ran"), protocol=2))
    assert not (tmp_path / "ran").exists()


def test_state_of_another_network(again, stopped, tmp_path):
    toy, _ = stopped
    train(toy.train(tmp_path / "other", num_layers=1))
    with pytest.raises(CheckpointError, match="loading state_dict"):
        again("last.ckpt", (tmp_path / "other" / "last.ckpt").read_bytes())


@pytest.mark.parametrize(
    "content",
    [
        b"[]",
        b"{}",
        b'{"epochs": 3}',
        b'{"epochs": [{"epoch": 0, "train_loss": 1.0}]}',
        b'{"epochs": [{"epoch": 0, "train_loss": 1.0}, {"epoch": 1, "train_loss": "low"}]}',
        b'{"epochs": [{"epoch": 1, "train_loss": 1.0}, {"epoch": 0, "train_loss": 1.0}]}',
        b"[" * 100_000,
    ],
    ids=lambda content: content[:60].decode(),
)
def test_damaged_history(again, content):
    with pytest.raises(RunFolderError, match=r"history\.json"):
        again("history.json", content)


def test_damaged_result(again):
    with pytest.raises(RunFolderError, match=r"metrics\.json must hold a JSON object, got list"):
        again("metrics.json", b"[]")


def test_divergence_ends_the_run(toy: ToySet, tmp_path):
    with pytest.raises(ModelError, match="diverged: train_loss is nan in epoch .*smaller learning rate"):
        train(toy.train(tmp_path / "run", optimizer={"learning_rate": 1e30}, epochs=50))
    assert not (tmp_path / "run" / "metrics.json").exists()


@pytest.mark.parametrize("command", ["search", "train"])
@pytest.mark.parametrize(
    ("trainer", "message"),
    [
        pytest.param(
            {"accelerator": "gpu"},
            "PyTorch can use none",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU"),
        ),
        ({"accelerator": "cpu", "devices": 100_000}, "this machine has [0-9]+ CPU cores"),
        ({"accelerator": "cpu", "precision": "16-mixed"}, "needs a GPU"),
    ],
)
def test_devices_that_are_not_there(toy: ToySet, tmp_path, command, trainer, message):
    with pytest.raises(ModelError, match=message):
        run(command, toy, tmp_path / "run", trainer=trainer)
    assert not (tmp_path / "run").exists()


def test_too_few_videos_are_refused_before_the_folder_is_made(toy: ToySet, tmp_path):
    with pytest.raises(DataError, match="at least 2 videos, got 1"):
        train(toy.train(tmp_path / "run", hold_out=0.999))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("command", ["search", "train"])
def test_nothing_to_score(toy: ToySet, tmp_path, command):
    content = json.loads(toy.annotations.read_text()) | {"task": "multi-label"}
    for video in content["videos"].values():
        video["labels"] = []
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match="has a label"):
        run(command, toy, tmp_path / "run", data=toy.data() | {"annotations": str(path)})
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("told", [{}, {"config": None}, {"config": []}, {"config": {"data": {"store": 3}}}], ids=str)
def test_a_checkpoint_that_does_not_tell_its_data(stopped, tmp_path, told):
    bundle, network = load_bundle(stopped[1])
    save_bundle(tmp_path / "model.safetensors", network, replace(bundle, training=told))
    with pytest.raises(ConfigError, match="must be given"):
        complete(EvaluateConfig(checkpoint=tmp_path / "model.safetensors"))


def test_keys_that_an_older_release_did_not_have_stand_at_their_defaults(toy: ToySet, tmp_path):
    config = toy.train(tmp_path / "run")
    with open_run(config.output, config, "metrics.json"):
        pass
    path = tmp_path / "run" / "config.yaml"
    path.write_text("".join(line for line in path.read_text().splitlines(True) if not line.startswith("hold_out:")))
    with open_run(config.output, config, "metrics.json") as finished:
        assert not finished


def test_a_temporary_file_of_a_killed_run_is_no_other_file(toy: ToySet, tmp_path):
    config = toy.train(tmp_path / "run")
    config.output.mkdir()
    (config.output / ".config-killed.yaml").touch()
    with open_run(config.output, config, "metrics.json") as finished:
        assert not finished
