"""One search step, alphas and weights: ours, that of stock NNI 3.0, and that of DARTS as published.

Each takes its steps in a process of its own, as its users run it: what one does to a process's memory is not the
others'. As a command, ``python -m nni_nastc.speed.search_step NAME BATCH T LAYERS CHANNELS CLASSES DEVICE``, it takes a
step for each line that it reads; it prints the bytes that the first took, and the seconds of each of the others.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import astuple, dataclass
from functools import partial
from types import MappingProxyType
from typing import IO, Any

import pytorch_lightning as pl
import torch
from nni.nas.evaluator.pytorch import DataLoader, Lightning, Trainer
from nni.nas.strategy import DARTS
from pytorch_lightning.callbacks import Callback
from torch import Tensor, nn

from nni_nastc.devices import choose_device, synchronise
from nni_nastc.errors import ModelError
from nni_nastc.evaluation.module import RecognitionModule
from nni_nastc.evaluation.scoring import loss_of
from nni_nastc.search.temp_darts import TempDARTS
from nni_nastc.session import training_session
from nni_nastc.space.network import NasTCSpace
from nni_nastc.speed.measure import peak_memory
from nni_nastc.speed.stock import PublishedSupernet, StockSpace

TASK = "multi-label"
CLIP = 5.0


@dataclass(frozen=True)
class StepSize:
    """The size of a step: B videos, T, L, C, K, and the device."""

    batch: int
    timesteps: int
    layers: int = 3
    channels: int = 1024
    classes: int = 157
    device: str = "cpu"


def make_batch(size: StepSize) -> dict[str, Tensor]:
    """Return random features (B, C, T, 7, 7), not negative as I3D's are, and labels (B, K)."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(size.batch, size.channels, size.timesteps, 7, 7, generator=generator).relu_()
    target = (torch.rand(size.batch, size.classes, generator=generator) < 0.05).float()
    return {"features": features, "target": target, "index": torch.arange(size.batch)}


class _Videos(torch.utils.data.Dataset[dict[str, Tensor]]):
    """The videos of one batch."""

    def __init__(self, batch: dict[str, Tensor]) -> None:
        self.batch = batch

    def __len__(self) -> int:
        return len(self.batch["index"])

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {name: value[index] for name, value in self.batch.items()}


class _Clock(Callback):
    """How long the step took."""

    seconds = 0.0
    _start = 0.0

    def on_train_batch_start(self, trainer: pl.Trainer, module: pl.LightningModule, *args: Any) -> None:
        synchronise(module.device)
        self._start = time.perf_counter()

    def on_train_batch_end(self, trainer: pl.Trainer, module: pl.LightningModule, *args: Any) -> None:
        synchronise(module.device)
        self.seconds = time.perf_counter() - self._start


def _sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.025, momentum=0.9, weight_decay=3e-4)


class StrategyStep:
    """A step of an NNI strategy on a space, taken by Lightning as in a search."""

    def __init__(self, strategy: DARTS, space: nn.Module, size: StepSize, precision: str = "32-true") -> None:
        self.strategy, self.space, self.size, self.precision = strategy, space, size, precision
        strategy.mutate_model(space)
        space.to(choose_device(size.device))  # weights do not count as what a step takes
        self.batch = make_batch(size)

    def __call__(self) -> float:
        """Take a step; return its seconds."""
        clock = _Clock()
        device = choose_device(self.size.device)
        trainer = Trainer(
            max_epochs=1,
            accelerator="gpu" if device.type == "cuda" else "cpu",
            devices=[device.index or 0] if device.type == "cuda" else 1,
            precision=self.precision,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
            callbacks=[clock],
        )
        loaders = [DataLoader(_Videos(self.batch), batch_size=self.size.batch) for _ in range(2)]
        evaluator = Lightning(
            RecognitionModule(TASK, lambda parameters: (_sgd(parameters), None)),
            trainer,
            train_dataloaders=loaders[0],
            val_dataloaders=loaders[1],
        )
        self.strategy.mutate_evaluator(evaluator).evaluate(self.space)
        return clock.seconds


class PublishedStep:
    """A first-order step of DARTS as published: both passes through the whole supernet, with all gradients."""

    def __init__(self, size: StepSize) -> None:
        self.device = choose_device(size.device)
        self.model = PublishedSupernet(size.classes, size.layers, size.channels).to(self.device).train()
        self.weights = [p for p in self.model.parameters() if p is not self.model.alphas]
        self.batch = {name: value.to(self.device) for name, value in make_batch(size).items()}
        self.optimizers = [
            torch.optim.Adam([self.model.alphas], 3e-4, betas=(0.5, 0.999), weight_decay=1e-3),
            _sgd(self.weights),
        ]

    def __call__(self) -> float:
        """Take a step; return its seconds."""
        synchronise(self.device)
        start = time.perf_counter()
        for optimizer in self.optimizers:
            optimizer.zero_grad()
            loss_of(TASK, self.model(self.batch["features"]), self.batch["target"]).backward()
            if optimizer is self.optimizers[1]:
                nn.utils.clip_grad_norm_(self.weights, CLIP)
            optimizer.step()
        synchronise(self.device)
        return time.perf_counter() - start


def _ours(size: StepSize, precision: str = "32-true") -> StrategyStep:
    space = NasTCSpace(num_classes=size.classes, num_layers=size.layers, in_channels=size.channels)
    return StrategyStep(TempDARTS(gradient_clip_val=CLIP), space, size, precision)


def _stock(size: StepSize) -> StrategyStep:
    return StrategyStep(DARTS(gradient_clip_val=CLIP), StockSpace(size.classes, size.layers, size.channels), size)


STEPS: Mapping[str, Callable[[StepSize], Callable[[], float]]] = MappingProxyType(
    {
        "ours": _ours,
        "stock_nni": _stock,
        "published_darts": PublishedStep,
        "bfloat16": partial(_ours, precision="bf16-mixed"),
    }
)
"""Name -> size -> what takes a step and returns its seconds."""


_IN_SESSION = ("ours", "bfloat16")
"""Those that run in the session of ``nastc``, which keeps freed memory."""


class StepProcess:
    """A process that has taken its first step, and takes one more for each call.

    Parameters
    ----------
    process : Popen
        That of the command of this module, its streams open as text.
    errors : file
        Where it writes errors.
    name, size : str, StepSize
        What it was started with.

    Attributes
    ----------
    memory : int
        Bytes that the first step took above what the model and the batch do.

    Raises
    ------
    ModelError
        Here and in a call, if the process fails: memory is short, as a rule.
    """

    def __init__(self, process: subprocess.Popen[str], errors: IO[str], name: str, size: StepSize) -> None:
        self._process, self._errors = process, errors
        self._what = f"{name} with batch {size.batch} and T = {size.timesteps}"
        self.memory = int(self._step())

    def __call__(self) -> float:
        """Take a step; return its seconds."""
        return float(self._step())

    def _step(self) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(BrokenPipeError):
            self._process.stdin.write("\n")
            self._process.stdin.flush()
        if answer := self._process.stdout.readline():
            return answer
        ended_with = self._process.wait()
        self._errors.seek(0)
        reason = (self._errors.read().strip().splitlines() or [f"it ended with {ended_with}"])[-1]
        raise ModelError(f"no search step of {self._what} ({reason}); give a smaller --batch or --timesteps")


@contextmanager
def step_process(name: str, size: StepSize) -> Iterator[StepProcess]:
    """Start a process that takes steps, and end it after the block.

    Parameters
    ----------
    name : str
        One of :data:`STEPS`.
    size : StepSize
        Of the steps.

    Yields
    ------
    StepProcess
        After its first step.
    """
    command = [sys.executable, "-m", "nni_nastc.speed.search_step", name, *map(str, astuple(size))]
    pipe = subprocess.PIPE
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=errors, text=True) as process,
    ):
        try:
            yield StepProcess(process, errors, name, size)
        finally:
            process.kill()


def main(arguments: list[str]) -> int:
    """Take a step for each line of standard input."""
    name, batch, timesteps, layers, channels, classes, device = arguments
    size = StepSize(int(batch), int(timesteps), int(layers), int(channels), int(classes), device)
    torch.manual_seed(0)
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # NNI's log goes to what was standard output when it was imported
    step = STEPS[name](size)
    with answers, training_session() if name in _IN_SESSION else nullcontext():
        sys.stdin.readline()
        print(peak_memory(step, choose_device(device)), file=answers, flush=True)
        for _ in sys.stdin:
            print(step(), file=answers, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
