"""What a trial tells of itself while it runs: metrics to NNI, curves and the alphas to TensorBoard."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import nni
import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from torch.utils.tensorboard import SummaryWriter

from nni_nastc.errors import ExperimentError
from nni_nastc.evaluation.history import EpochHistory
from nni_nastc.plots import AlphasMap

_logger = logging.getLogger("nni_nastc.trial")

METRICS = (
    "train_loss", "alpha_loss", "val_loss", "val_score", "reward", "temperature", "learning_rate", "seconds",
)  # fmt: skip
"""Values of an epoch that are reported, where it has them."""


class ReportMetrics(Callback):
    """Report every epoch to NNI: the validation score as the default metric, and all others.

    NNI shows them as the trial's curve. Its order is that of the epochs, also when a trial goes on.
    """

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Report the epoch."""
        entry = _history(trainer).epochs[-1]
        try:
            nni.report_intermediate_result(nni_metrics(entry))
        except OSError as problem:
            raise ExperimentError(
                "NNI's manager no longer answers: the experiment was stopped or killed, and the trial ends with it"
            ) from problem
        metrics = ", ".join(f"{name} {entry[name]:.4g}" for name in METRICS if name in entry)
        _logger.info("epoch %d of %s: %s", entry["epoch"] + 1, trainer.max_epochs, metrics)


class WriteTensorBoard(Callback):
    """Write every epoch for TensorBoard: losses, score, learning rate, and the alphas as a picture.

    Parameters
    ----------
    folder : Path
        Where NNI looks for it: ``tensorboard`` in a trial's output folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.writer: SummaryWriter | None = None
        self._map: AlphasMap | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Open the log; epochs of an interrupted run that are done again replace the old ones."""
        self.writer = SummaryWriter(str(self.folder), purge_step=trainer.current_epoch)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the epoch."""
        assert self.writer is not None
        history = _history(trainer)
        entry = history.epochs[-1]
        for name in METRICS:
            if name in entry:
                self.writer.add_scalar(name, entry[name], entry["epoch"])
        if "alphas" in entry:
            if self._map is None:
                self._map = AlphasMap(history.header["edges"], history.header["operations"])
            self.writer.add_image("alphas", self._map.image(entry["alphas"]), entry["epoch"], dataformats="HWC")
        self.writer.flush()

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Close the log."""
        if self.writer is not None:
            self.writer.close()


def nni_metrics(entry: dict[str, Any]) -> dict[str, float]:
    """Return the metrics of an epoch in NNI's form, ``default`` being the validation score."""
    return {"default": entry["val_score"], **{name: entry[name] for name in METRICS if name in entry}}


def _history(trainer: pl.Trainer) -> EpochHistory:
    return next(c for c in trainer.callbacks if isinstance(c, EpochHistory))  # type: ignore[attr-defined]
