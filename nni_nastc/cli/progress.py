"""Progress of a training in the terminal: epochs, losses, score, time left."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from nni_nastc.distributed import is_main
from nni_nastc.evaluation.history import EpochHistory


class EpochProgress(Callback):
    """A bar over the batches of all epochs, with the last epoch's losses and score.

    Parameters
    ----------
    title : str
        What is going on.
    """

    def __init__(self, title: str) -> None:
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            TextColumn("epoch {task.completed:.0f}/{task.total}"),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[scores]}"),
            console=Console(stderr=True, quiet=not is_main()),
        )
        self.task = self.bar.add_task(title, total=None, scores="")

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show the bar, at the epoch where a resumed run goes on."""
        self.bar.update(self.task, total=trainer.max_epochs, completed=trainer.current_epoch)
        self.bar.start()

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        """Advance by a batch."""
        self.bar.advance(self.task, 1 / max(1, int(trainer.num_training_batches)))

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show what the epoch brought."""
        entry = next(c for c in trainer.callbacks if isinstance(c, EpochHistory)).epochs[-1]  # type: ignore[attr-defined]
        shown = {"loss": entry["train_loss"], "val loss": entry.get("val_loss"), "val score": entry.get("val_score")}
        scores = "  ".join(f"{name} {value:.3f}" for name, value in shown.items() if value is not None)
        self.bar.update(self.task, completed=trainer.current_epoch + 1, scores=scores)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave the full bar."""
        self.bar.stop()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Leave the bar as it is."""
        self.bar.stop()
