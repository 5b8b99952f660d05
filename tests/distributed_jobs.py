"""What tests run in several processes: ``torchrun --nproc-per-node 2 -m tests.distributed_jobs JOB FOLDER``."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nni.nas.evaluator.pytorch import DataLoader as NniLoader
from nni.nas.evaluator.pytorch import Lightning, Trainer
from pytorch_lightning.callbacks import Callback
from safetensors.torch import save_file
from torch import nn

from nni_nastc.config import TrainConfig, load_config
from nni_nastc.data.datamodule import VideoSet
from nni_nastc.data.dataset import make_loader
from nni_nastc.distributed import place, process_group
from nni_nastc.evaluation.module import RecognitionModule
from nni_nastc.evaluation.scoring import VideoScores, score_videos
from nni_nastc.search.temp_darts import TempDARTS
from nni_nastc.training import train
from tests.helpers import fill
from tests.nni_toys import ToyVideos, toy_space
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


class GradientsOfAStep(Callback):
    """Fix the statistics, and note the gradients of the alphas and of the weights in the first step."""

    def __init__(self) -> None:
        self.gradients: list[dict[str, torch.Tensor]] = []

    def on_train_batch_start(self, trainer: Any, module: Any, *args: Any) -> None:
        module.eval()

    def on_before_optimizer_step(self, trainer: Any, module: Any, optimizer: Any) -> None:
        trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
        named = {name: p for name, p in module.named_parameters() if id(p) in trained and p.grad is not None}
        self.gradients.append({name: p.grad.clone() for name, p in named.items()})


def search_step(folder: Path) -> None:
    """Take a step of a search on eight videos, however many processes share them; save gradients and parameters."""
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    videos = ToyVideos()
    share = torch.utils.data.Subset(videos, range(rank, len(videos), world))
    spy = GradientsOfAStep()
    trainer = Trainer(
        max_epochs=1,
        accelerator="cpu",
        devices=world,
        strategy="ddp_find_unused_parameters_true" if world > 1 else "auto",
        use_distributed_sampler=False,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        callbacks=[spy],
    )
    module = RecognitionModule("single-label", lambda parameters: (torch.optim.SGD(parameters, lr=0.1), None))
    loaders = [NniLoader(share, batch_size=len(share)) for _ in range(2)]
    evaluator = Lightning(module, trainer, train_dataloaders=loaders[0], val_dataloaders=loaders[1])
    torch.manual_seed(rank)  # DDP makes the processes start alike
    space = toy_space()
    if world == 1 or rank == 0:
        torch.manual_seed(0)
        space = toy_space()
    strategy = TempDARTS()
    strategy.mutate_model(space)
    searching = strategy.mutate_evaluator(evaluator)
    searching.evaluate(space)
    alphas, weights = spy.gradients
    after = {name: p.detach().clone() for name, p in searching.module.named_parameters()}
    for name, values in (("alphas", alphas), ("weights", weights), ("after", after)):
        save_file({key: value.contiguous() for key, value in values.items()}, folder / f"{name}_{rank}_of_{world}")


def main() -> None:
    job, folder = sys.argv[1], Path(sys.argv[2])
    if job == "score":
        draws, batch_size, videos = map(int, sys.argv[3:6])
        with process_group(torch.device("cpu")):
            result = scores_of(folder, draws=draws, batch_size=batch_size, videos=videos)
            rank, world = place()
        assert world == 2
        np.savez(folder / f"process_{rank}.npz", scores=result.scores, targets=result.targets, loss=result.loss)
    elif job == "search_step":
        search_step(folder)
    elif job == "stop":  # a training that fails in its second epoch
        train(load_config(TrainConfig, folder / "train.yaml"), [StopAfter(1)])


if __name__ == "__main__":
    main()
