"""Progress of a training in the terminal: epochs, losses, score, time left."""

from __future__ import annotations

import logging
import signal
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from io import StringIO
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from nni_nastc.distributed import is_main
from nni_nastc.evaluation.history import EpochHistory

_CHATTY = ("pytorch_lightning", "lightning.pytorch", "lightning_fabric", "nni", "torch.onnx")

_NO_CONCERN_OF_USERS = (
    ".*does not have many workers.*",
    # Of the layout of a small gradient, when several processes train.
    ".*Grad strides do not match bucket view strides.*",
    ".*`isinstance\\(treespec, LeafSpec\\)` is deprecated.*",
    # A state of a run that somebody has replaced: it is refused in words.
    ".*Detected pickle protocol.*",
    # NNI's one-shot strategies have no validation loop; ours is a callback.
    ".*`val_dataloader` but have no `validation_step`.*",
)


@contextmanager
def training_session() -> Iterator[None]:
    """Keep the chatter of Lightning and NNI from the terminal, and let Ctrl-C end the block as ``KeyboardInterrupt``.

    Lightning would end the process instead. Enter it after the libraries are imported: they set their loggers up then.
    Of several processes only the first prints.
    """
    handler = signal.getsignal(signal.SIGINT)
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), nullcontext() if is_main() else redirect_stdout(StringIO()):
            for message in _NO_CONCERN_OF_USERS:
                warnings.filterwarnings("ignore", message=message)
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
