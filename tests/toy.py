"""A store of made-up features whose activities are told by order only, and configurations to search and train on it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytorch_lightning.callbacks import Callback

from nni_nastc.config import SearchConfig, TrainConfig
from nni_nastc.data.synthetic import make_order_features


@dataclass(frozen=True)
class ToySet:
    """Where the features and their annotations are."""

    store: Path
    annotations: Path

    @classmethod
    def make(cls, folder: Path, **numbers: Any) -> ToySet:
        toy = cls(folder / "store", folder / "annotations.json")
        make_order_features(toy.store, toy.annotations, **({"videos": 32, "windows": 16, "channels": 8} | numbers))
        return toy

    def data(self) -> dict[str, Any]:
        return {"store": str(self.store), "annotations": str(self.annotations), "timesteps": 8, "batch_size": 6}

    def search(self, output: Path, **changes: Any) -> SearchConfig:
        values = {"output": str(output), "data": self.data(), "space": "nastc_small", "epochs": 2}
        return SearchConfig.model_validate(values | {"trainer": {"accelerator": "cpu"}} | changes)

    def train(self, output: Path, **changes: Any) -> TrainConfig:
        values = {"output": str(output), "data": self.data(), "genotype": "sep_conv_3", "num_layers": 2, "epochs": 2}
        return TrainConfig.model_validate(values | {"trainer": {"accelerator": "cpu"}} | changes)


class StopAfter(Callback):
    """Fail in the first batch of an epoch, as a crash would."""

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs

    def on_train_batch_start(self, trainer: Any, module: Any, *args: Any) -> None:
        if trainer.current_epoch == self.epochs:
            raise RuntimeError("stopped by the test")


def history_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "history.json").read_text())


def without_times(history: dict[str, Any]) -> list[dict[str, Any]]:
    return [{key: value for key, value in entry.items() if key != "seconds"} for entry in history["epochs"]]
