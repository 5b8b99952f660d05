"""What every training of this package asks of Lightning's trainer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from pytorch_lightning.callbacks import Callback

from nni_nastc.acceleration import usable_precision
from nni_nastc.config import SearchConfig, TrainConfig
from nni_nastc.devices import local_device
from nni_nastc.evaluation.history import EpochHistory, EpochSeed, SaveState

Training = TypeVar("Training", SearchConfig, TrainConfig)


def with_usable_precision(config: Training) -> Training:
    """Return a configuration with a precision that the hardware has, which is what is then recorded."""
    return with_precision(
        config, usable_precision(config.trainer.precision, local_device(config.trainer.accelerator))
    )


def with_precision(config: Training, precision: str) -> Training:
    """Return a configuration with another precision, as Lightning calls it."""
    return config.model_copy(update={"trainer": config.trainer.model_copy(update={"precision": precision})})


def trainer_arguments(
    config: SearchConfig | TrainConfig, history: EpochHistory, callbacks: Sequence[Callback] = ()
) -> dict[str, Any]:
    """Return the arguments of a ``Trainer`` that seeds, scores and saves every epoch, and writes nothing else.

    Parameters
    ----------
    config : SearchConfig or TrainConfig
        Epochs, seed, output folder, and where to train.
    history : EpochHistory
        Scores the network when an epoch ends.
    callbacks : sequence of Callback
        Further ones. They run after the history and before the state is saved.
    """
    return {
        "max_epochs": config.epochs,
        "accelerator": config.trainer.accelerator,
        "devices": config.trainer.devices,
        "num_nodes": config.trainer.num_nodes,
        "precision": config.trainer.precision,
        "sync_batchnorm": config.trainer.sync_batchnorm,
        # PyTorch warns of an operation that has no deterministic kernel.
        "deterministic": "warn" if config.trainer.deterministic else None,
        "callbacks": [EpochSeed(config.seed), history, *callbacks, SaveState(config.output)],
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "default_root_dir": config.output,
    }
