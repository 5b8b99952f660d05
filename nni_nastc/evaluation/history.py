"""What an epoch leaves behind: its scores in ``history.json``, and a state from which a killed run goes on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, Checkpoint

from nni_nastc.evaluation.scoring import METRIC_NAMES, score_videos
from nni_nastc.files import atomic_path, read_json, write_json

HISTORY_FILE = "history.json"
STATE_FILE = "last.ckpt"

_FORMAT = "nni_nastc.history"
_VERSION = 1


class EpochSeed(Callback):
    """Seed the random numbers of every epoch by its number, so that a resumed run draws what an unbroken one draws."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Set torch's generators."""
        torch.manual_seed(self.seed * 1_000_003 + trainer.current_epoch)


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
    """

    def __init__(
        self,
        folder: Path,
        task: str,
        loader: Iterable[Mapping[str, Any]] | None,
        *,
        header: Mapping[str, Any] | None = None,
        details: Callable[[pl.Trainer, pl.LightningModule], dict[str, Any]] | None = None,
    ) -> None:
        self.path = folder / HISTORY_FILE
        self.task = task
        self.loader = loader
        self.header = {"format": _FORMAT, "version": _VERSION, "metric": METRIC_NAMES[task], **(header or {})}
        self.details = details or (lambda trainer, module: {})
        self.epochs: list[dict[str, Any]] = []
        self._start = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take up the history of the epochs that the state holds."""
        known = read_json(self.path)["epochs"] if self.path.is_file() else []
        self.epochs = [entry for entry in known if entry["epoch"] < trainer.current_epoch]

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
        if self.loader is not None:
            result = score_videos(pl_module.model, self.loader, self.task, pl_module.device)  # type: ignore[arg-type]
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
        with atomic_path(self.path) as temporary:
            trainer.save_checkpoint(temporary, weights_only=False)


def resume_arguments(folder: Path) -> dict[str, Any]:
    """Return the arguments of Lightning's ``fit`` that go on from the state in a folder, if there is one."""
    state = folder / STATE_FILE
    return {"ckpt_path": str(state), "weights_only": True} if state.is_file() else {}
