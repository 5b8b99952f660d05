"""Progress of a training in the terminal: epochs, losses, score, time left."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from nni_nastc.evaluation.history import EpochHistory


@contextmanager
def interruptible() -> Iterator[None]:
    """Let Ctrl-C end the block as a ``KeyboardInterrupt``, which Lightning turns into an exit of the process."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as stop:
        if isinstance(stop.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from None
        raise
    finally:
        signal.signal(signal.SIGINT, handler)


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
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("epochs  {task.fields[scores]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
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
