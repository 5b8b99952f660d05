"""Several processes score and train as one does."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from nni_nastc.bundle import load_bundle
from nni_nastc.cli.main import main
from nni_nastc.config import dump_config
from nni_nastc.data.datamodule import FeatureDataModule, VideoSet
from nni_nastc.data.dataset import EpochSampler, make_loader
from nni_nastc.distributed import check_processes, gather, is_main, place
from nni_nastc.errors import ConfigError
from nni_nastc.evaluation.scoring import score_videos
from nni_nastc.training import train
from tests.distributed_jobs import ROOT, scores_of, torchrun
from tests.toy import ToySet, history_of, without_times

JOBS = "tests.distributed_jobs"


@pytest.fixture(scope="module")
def odd_toy(tmp_path_factory) -> ToySet:
    """37 videos: neither halves nor batches of them are even."""
    return ToySet.make(tmp_path_factory.mktemp("odd"), videos=37)


def test_alone_a_process_is_the_only_one(monkeypatch):
    for name in ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    assert place() == (0, 1)
    assert is_main()
    assert gather("mine") == ["mine"]
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert not is_main(), "before the processes have met, the environment tells"


def test_another_number_of_processes_than_configured_is_refused(monkeypatch):
    for name in ("RANK", "MASTER_ADDR", "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(name, raising=False)
    check_processes(2, 1)
    with pytest.raises(ConfigError, match="--num-nodes = 2, .* started alone; start it with torchrun on each"):
        check_processes(2, 2, "--devices", "--num-nodes")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "4")
    check_processes(2, 2)
    check_processes("auto", 1)
    with pytest.raises(ConfigError, match=r"started 4 processes.*trainer\.devices = 2.*trainer\.num_nodes = 1"):
        check_processes(2, 1)


@pytest.mark.parametrize(("world", "videos", "batches"), [(1, 18, [8, 8, 2]), (2, 18, [8]), (2, 20, [8, 2])])
def test_no_process_trains_on_a_batch_of_one_video(monkeypatch, toy: ToySet, world, videos, batches):
    opened = VideoSet.open(toy.store, toy.annotations, timesteps=8)
    dataset = opened.dataset(opened.records("train")[:videos], "random")
    data = FeatureDataModule(dataset, batch_size=8, workers=0, seed=0)
    for rank in range(world):
        monkeypatch.setattr("nni_nastc.data.dataset.place", lambda rank=rank: (rank, world))
        assert [len(batch["index"]) for batch in data.train_dataloader()] == batches


def test_processes_share_an_evaluation_without_an_example_twice():
    parts = [list(EpochSampler(21, shuffle=False, rank=rank, world=2)) for rank in range(2)]
    assert sorted(position for part in parts for position, _ in part) == list(range(21))
    assert [len(part) for part in parts] == [11, 10]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("draws", "batch_size", "videos"), [(3, 4, 27), (1, 8, 1)], ids=["uneven batches", "one process without videos"]
)
def test_two_processes_score_as_one(odd_toy: ToySet, draws, batch_size, videos):
    folder = odd_toy.store.parent
    torchrun(JOBS, "score", folder, str(draws), str(batch_size), str(videos))
    alone = scores_of(folder, draws=draws, batch_size=batch_size, videos=videos)
    assert alone.scores.shape[0] == videos
    for rank in range(2):
        both = np.load(folder / f"process_{rank}.npz")
        np.testing.assert_allclose(both["scores"], alone.scores, rtol=1e-6)
        np.testing.assert_array_equal(both["targets"], alone.targets)
        assert both["loss"] == pytest.approx(alone.loss, rel=1e-6)


@pytest.mark.slow
def test_two_processes_train_stop_resume_and_evaluate(odd_toy: ToySet, tmp_path):
    config = odd_toy.train(tmp_path / "run", epochs=3, trainer={"accelerator": "cpu", "devices": 2})
    path = tmp_path / "train.yaml"
    path.write_text(dump_config(config.model_copy(update={"output": tmp_path / "unbroken"})))
    shown = torchrun("nni_nastc", "train", path)
    assert shown.stdout.count("wrote model.safetensors") == 1, f"one process speaks: {shown.stdout}"
    assert shown.stderr.count("epoch 3/3") == 1, f"one process draws: {shown.stderr}"

    path.write_text(dump_config(config))
    assert torchrun(JOBS, "stop", tmp_path, check=False).returncode != 0
    assert len(history_of(tmp_path / "run")["epochs"]) == 1
    torchrun("nni_nastc", "train", path)
    assert without_times(history_of(tmp_path / "run")) == without_times(history_of(tmp_path / "unbroken"))

    folder = tmp_path / "run"
    assert {file.name for file in folder.iterdir()} == {
        "config.yaml", "environment.json", "history.json", "history.png", "last.ckpt", "metrics.json",
        "model.safetensors", "split.json",
    }, "nothing half-written is left"  # fmt: skip
    model = load_bundle(folder)[1]
    state = torch.load(folder / "last.ckpt", weights_only=True)
    assert state["epoch"] == 2
    saved = {key.partition(".")[2]: tensor for key, tensor in state["state_dict"].items()}
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, saved[name]), name
    check_held_out_scores(odd_toy, folder, model)
    check_evaluation(folder)


def check_held_out_scores(toy: ToySet, folder, model) -> None:
    """One process finds the same scores with the network that two have trained and scored."""
    opened = VideoSet.open(toy.store, toy.annotations, timesteps=8)
    held = set(json.loads((folder / "split.json").read_text())["held_out"])
    dataset = opened.dataset([record for record in opened.records("train") if record.id in held], "uniform")
    result = score_videos(
        model, make_loader(dataset, batch_size=6, shuffle=False, workers=0), opened.task, torch.device("cpu")
    )
    last = history_of(folder)["epochs"][-1]
    assert last["val_loss"] == pytest.approx(result.loss, rel=1e-5)
    assert last["val_score"] == result.metric


def check_evaluation(folder) -> None:
    torchrun("nni_nastc", "evaluate", folder, f"output={folder / 'two'}", "batch_size=7")
    assert main(["evaluate", str(folder), f"output={folder / 'one'}"]) == 0
    two, one = (json.loads((folder / name / "metrics.json").read_text()) for name in ("two", "one"))
    assert two["loss"] == pytest.approx(one["loss"], rel=1e-5)
    assert two | {"loss": 0} == one | {"loss": 0}


@pytest.mark.slow
def test_lightning_starts_the_other_process_itself(odd_toy: ToySet, tmp_path):
    config = odd_toy.train(tmp_path / "run", epochs=1, trainer={"accelerator": "cpu", "devices": 2})
    path = tmp_path / "train.yaml"
    path.write_text(dump_config(config))
    done = subprocess.run([sys.executable, "-m", "nni_nastc", "train", path], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout.count("wrote model.safetensors") == 1, done.stdout
    assert len(history_of(tmp_path / "run")["epochs"]) == 1
    before = (tmp_path / "run" / "history.json").stat().st_mtime_ns
    metrics = train(config)
    assert metrics["epochs"] == 1, "a finished run starts no processes"
    assert (tmp_path / "run" / "history.json").stat().st_mtime_ns == before
