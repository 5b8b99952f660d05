"""What an epoch leaves behind: its scores in ``history.json``, and a state from which a killed run goes on."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, Checkpoint
from torch import nn

from nni_nastc.distributed import share_buffers
from nni_nastc.errors import CheckpointError, ModelError, NastcError, RunFolderError
from nni_nastc.evaluation.scoring import METRIC_NAMES, score_videos
from nni_nastc.files import atomic_path, read_object, write_json

HISTORY_FILE = "history.json"
STATE_FILE = "last.ckpt"

_FORMAT = "nni_nastc.history"
_VERSION = 1


class EpochSeed(Callback):
    """Seed the random numbers of every epoch by its number, so that a resumed run draws what an unbroken one draws.

    Each process of a distributed run draws its own.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Set the generators."""
        seed_epoch(self.seed, trainer.current_epoch, trainer.global_rank, trainer.world_size)


def seed_epoch(seed: int, epoch: int, rank: int = 0, world: int = 1) -> None:
    """Set the global generators of torch, NumPy and Python to the draws of one epoch in one of several processes."""
    number = (seed * 1_000_003 + epoch) * world + rank
    torch.manual_seed(number)
    np.random.seed(number % 2**32)
    random.seed(number)


class EpochHistory(Callback):
    """Score the network on the validation videos when an epoch ends, and write the history so far.

    Parameters
    ----------
    folder : Path
        Gets ``history.json``.
    task : str
        "single-label" or "multi-label".
    loader : iterable or None
        Validation batches; None where all videos train.
    header : mapping
        What else the history says at its top.
    details : callable, optional
        ``(trainer, module) -> dict`` of further values of an epoch.
    network : callable, optional
        ``module -> network`` that is scored; the module's ``model`` by default.
    """

    def __init__(
        self,
        folder: Path,
        task: str,
        loader: Iterable[Mapping[str, Any]] | None,
        *,
        header: Mapping[str, Any] | None = None,
        details: Callable[[pl.Trainer, pl.LightningModule], dict[str, Any]] | None = None,
        network: Callable[[pl.LightningModule], nn.Module] = attrgetter("model"),
    ) -> None:
        self.path = folder / HISTORY_FILE
        self.task = task
        self.loader = loader
        self.header = {"format": _FORMAT, "version": _VERSION, "metric": METRIC_NAMES[task], **(header or {})}
        self.details = details or (lambda trainer, module: {})
        self.network = network
        self.epochs: list[dict[str, Any]] = []
        self._start = 0.0
        self._running = False

    @contextmanager
    def resuming(self) -> Iterator[dict[str, Any]]:
        """Yield the arguments of Lightning's ``fit`` that go on from the state in the folder, if there is one.

        Raises
        ------
        CheckpointError
            If the state cannot be taken up: it is damaged, or of another network. Reading it runs no code from it.
        """
        state = self.path.with_name(STATE_FILE)
        try:
            yield {"ckpt_path": str(state), "weights_only": True} if state.is_file() else {}
        except Exception as problem:  # there is no telling what Lightning makes of a damaged file
            if self._running or isinstance(problem, NastcError) or not state.is_file():
                raise
            reason = str(problem).partition("\n")[0].partition(". ")[0] or type(problem).__name__
            raise CheckpointError(
                f"the run cannot go on from {state} ({reason}); "
                "if the file is damaged, remove it, and the same command starts anew"
            ) from problem

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take up the history of the epochs that the state holds."""
        self._running = True
        if trainer.current_epoch:
            self.epochs = read_history(self.path.parent, trainer.current_epoch)["epochs"]

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        self._start = time.perf_counter()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Score, and write."""
        entry = {
            "epoch": trainer.current_epoch,
            "train_loss": trainer.callback_metrics["train_loss"].item(),
            "learning_rate": trainer.optimizers[0].param_groups[0]["lr"],
            **self.details(trainer, pl_module),
        }
        _require_finite(entry)
        if self.loader is not None:
            network = self.network(pl_module)
            share_buffers(network)
            result = score_videos(network, self.loader, self.task, pl_module.device)
            entry |= {"val_loss": result.loss, "val_score": result.metric}
        entry["seconds"] = time.perf_counter() - self._start
        self.epochs.append(entry)
        if trainer.is_global_zero:
            write_json(self.path, {**self.header, "epochs": self.epochs})


class SaveState(Checkpoint):
    """Write the state of the run after each epoch, whole or not at all.

    Lightning runs it after all other callbacks, so that a state never knows more epochs than the history.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / STATE_FILE

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the state."""
        # Gathering the state takes all processes; process 0 writes it.
        with atomic_path(self.path) if trainer.is_global_zero else nullcontext(self.path) as path:
            trainer.save_checkpoint(path, weights_only=False)
        trainer.strategy.barrier()  # none goes on before the state is in place


def read_history(folder: Path, epochs: int) -> dict[str, Any]:
    """Read the history of a run.

    Parameters
    ----------
    folder : Path
        Where ``history.json`` is.
    epochs : int
        How many epochs to return, the first ones.

    Raises
    ------
    RunFolderError
        If it is missing or damaged, or lacks one of the epochs.
    """
    path = folder / HISTORY_FILE
    history = read_object(path, RunFolderError)
    entries = history.get("epochs")
    known = entries[:epochs] if isinstance(entries, list) else []
    if len(known) < epochs or not all(_is_entry(entry, number) for number, entry in enumerate(known)):
        raise RunFolderError(
            f"{path} must hold the epochs 0 to {epochs - 1} with their losses: it was edited or damaged; "
            f"remove {folder} and run again"
        )
    return {**history, "epochs": known}


def _is_entry(entry: Any, number: int) -> bool:
    if not isinstance(entry, dict) or entry.get("epoch") != number or "train_loss" not in entry:
        return False
    return all(_is_numeric(value) for value in entry.values())


def _is_numeric(value: Any) -> bool:
    return isinstance(value, int | float) or (isinstance(value, list) and all(map(_is_numeric, value)))


def _require_finite(entry: Mapping[str, Any]) -> None:
    """Stop a run whose losses are no numbers any more: all that follows would be lost time."""
    for name in ("train_loss", "alpha_loss"):
        if not math.isfinite(entry.get(name, 0.0)):
            raise ModelError(
                f"the training has diverged: {name} is {entry[name]} in epoch {entry['epoch'] + 1}; "
                "use a smaller learning rate, and another output folder"
            )
