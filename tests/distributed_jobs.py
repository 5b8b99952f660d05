"""What tests run in several processes: ``torchrun --nproc-per-node 2 -m tests.distributed_jobs JOB FOLDER``."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn

from nni_nastc.config import TrainConfig, load_config
from nni_nastc.data.datamodule import VideoSet
from nni_nastc.data.dataset import make_loader
from nni_nastc.distributed import place, process_group
from nni_nastc.evaluation.scoring import VideoScores, score_videos
from nni_nastc.training import train
from tests.helpers import fill
from tests.toy import StopAfter

ROOT = Path(__file__).parents[1]
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def torchrun(*arguments: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a module in two processes."""
    command = [sys.executable, *TORCHRUN, "-m", *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise AssertionError(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}\n{done.stderr[-6000:]}")
    return done


class TinyNetwork(nn.Module):
    """Mean over time and space, then linear: fast, and other scores for other superframes."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, classes)
        fill(self)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.linear(features.mean((2, 3, 4)) + features.amax((2, 3, 4)))


def scores_of(folder: Path, *, draws: int, batch_size: int, videos: int | None = None) -> VideoScores:
    """Score the toy set of a folder with a fixed network, in as many processes as have met."""
    opened = VideoSet.open(folder / "store", folder / "annotations.json", timesteps=4)
    records = opened.records("train")[:videos]
    loader = make_loader(
        opened.dataset(records, "random", draws=draws), batch_size=batch_size, shuffle=False, workers=0
    )
    network = TinyNetwork(opened.store.feature_shape[0], opened.num_classes)
    return score_videos(network, loader, opened.task, torch.device("cpu"))


def main() -> None:
    job, folder = sys.argv[1], Path(sys.argv[2])
    if job == "score":
        draws, batch_size, videos = map(int, sys.argv[3:6])
        with process_group(torch.device("cpu")):
            result = scores_of(folder, draws=draws, batch_size=batch_size, videos=videos)
            rank, world = place()
        assert world == 2
        np.savez(folder / f"process_{rank}.npz", scores=result.scores, targets=result.targets, loss=result.loss)
    elif job == "stop":  # a training that fails in its second epoch
        train(load_config(TrainConfig, folder / "train.yaml"), [StopAfter(1)])


if __name__ == "__main__":
    main()
