"""One search step, alphas and weights: ours, that of stock NNI 3.0, and that of DARTS as published.

As a command, ``python -m nni_nastc.speed.search_step NAME BATCH T LAYERS CHANNELS CLASSES DEVICE``, it takes two steps,
and prints the bytes that the first took and the seconds of the second.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import astuple, dataclass
from functools import partial
from types import MappingProxyType
from typing import Any

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


def measure_step(name: str, size: StepSize) -> tuple[int, float]:
    """Take two steps in a fresh process: what one does to the memory of its process is not the others'.

    Parameters
    ----------
    name : str
        One of :data:`STEPS`.
    size : StepSize
        Of the steps.

    Returns
    -------
    (int, float)
        The bytes that the first took above what the model and the batch do, and the seconds of the second.

    Raises
    ------
    ModelError
        If the process fails: memory is short, as a rule.
    """
    command = [sys.executable, "-m", "nni_nastc.speed.search_step", name, *map(str, astuple(size))]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        # A process that was killed had no last word: what it wrote are warnings.
        errors = done.stderr.strip().splitlines() if done.returncode > 0 else []
        reason = (errors or [f"it ended with {done.returncode}"])[-1]
        raise ModelError(
            f"no search step of {name} with batch {size.batch} and T = {size.timesteps} ({reason}); "
            "give a smaller --batch or --timesteps"
        )
    memory, seconds = done.stdout.split()[-2:]
    return int(memory), float(seconds)


def main(arguments: list[str]) -> int:
    """Take two steps, and print what they took."""
    name, batch, timesteps, layers, channels, classes, device = arguments
    size = StepSize(int(batch), int(timesteps), int(layers), int(channels), int(classes), device)
    torch.manual_seed(0)
    step = STEPS[name](size)
    with training_session() if name in _IN_SESSION else nullcontext():
        memory = peak_memory(step, choose_device(device))
        print(memory, step())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
