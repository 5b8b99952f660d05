"""The videos of a run: annotations and features that fit together, their parts, and Lightning's data module of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from nni_nastc.config import DataConfig
from nni_nastc.data.annotations import Annotations, VideoRecord, load_annotations
from nni_nastc.data.dataset import EpochSampler, FeatureDataset, make_loader
from nni_nastc.data.reading import FeatureSource, KeptFeatures
from nni_nastc.errors import DataError
from nni_nastc.features.store import FeatureStore


@dataclass(frozen=True)
class VideoSet:
    """A feature store and the annotations of its videos.

    Parameters
    ----------
    store : FeatureStore
        Where features are read from.
    annotations : Annotations
        Classes, task, and a record for each video.
    timesteps : int
        T, the superframes that are drawn from a video.
    seed : int
        Seeds the draws.
    source : FeatureSource, optional
        Where the datasets' features come from: the store's files by default.
    """

    store: FeatureStore
    annotations: Annotations
    timesteps: int
    seed: int
    source: FeatureSource | None = None

    @classmethod
    def open(
        cls,
        store: Path,
        annotations: Path,
        *,
        dataset: str = "json",
        target: str | None = None,
        timesteps: int,
        seed: int = 0,
        cache: Literal["none", "memory", "device"] = "none",
        device: torch.device = torch.device("cpu"),  # noqa: B008 (it is immutable)
    ) -> VideoSet:
        """Open both.

        Parameters
        ----------
        store, annotations : Path
            Where they are.
        dataset, target
            See :func:`nni_nastc.data.annotations.load_annotations`.
        timesteps, seed : int
            As of the class.
        cache : str
            "none": features are read when they are drawn; "memory" or "device": all features of a dataset's videos are
            read once, and stay in the memory of the host or of the device.
        device : torch.device
            Where the network will be.

        Raises
        ------
        FeatureStoreError, AnnotationError
            If one of them is missing or broken.
        """
        opened = FeatureStore.open(store)
        places = {"memory": torch.device("cpu"), "device": device}
        source = KeptFeatures(opened, places[cache]) if cache in places else None
        return cls(opened, load_annotations(annotations, target, dataset=dataset), timesteps, seed, source)

    @classmethod
    def from_config(cls, config: DataConfig, *, seed: int, device: torch.device) -> VideoSet:
        """Open what a configuration names; see :meth:`open`."""
        return cls.open(
            config.store,
            config.annotations,
            dataset=config.dataset,
            target=config.target,
            timesteps=config.timesteps,
            seed=seed,
            cache=config.cache,
            device=device,
        )

    def records(self, subset: Literal["train", "test"], *, unlabelled: bool = False) -> list[VideoRecord]:
        """Return the records of a part; see :meth:`nni_nastc.data.records.Annotations.of`.

        Raises
        ------
        DataError
            If there are none.
        """
        records = self.annotations.of(subset, unlabelled=unlabelled)
        if not records:
            raise DataError(f'no video has the subset "{subset}" in the annotations; set it there')
        return records

    def dataset(
        self, records: Sequence[VideoRecord], sampling: Literal["random", "uniform"], draws: int = 1
    ) -> FeatureDataset:
        """Return the dataset of some records; see :class:`nni_nastc.data.dataset.FeatureDataset`."""
        return FeatureDataset(
            self.store,
            records,
            self.annotations.classes,
            self.annotations.task,
            timesteps=self.timesteps,
            sampling=sampling,
            draws=draws,
            seed=self.seed,
            source=self.source,
        )

    def training_batches(
        self, train: Sequence[VideoRecord], val: Sequence[VideoRecord] | None = None, *, config: DataConfig
    ) -> FeatureDataModule:
        """Return random draws of the records that train weights, and in a search of those that train alphas.

        Raises
        ------
        DataError
            If there is a single video, on which batch norm cannot train.
        """
        return FeatureDataModule(
            self.dataset(train, "random"),
            None if val is None else self.dataset(val, "random"),
            batch_size=config.batch_size,
            workers=config.workers,
            seed=self.seed,
        )

    def scored_batches(self, records: Sequence[VideoRecord], *, config: DataConfig) -> DataLoader[Any]:
        """Return the middle draws of the records on which a network is scored, in their order."""
        return make_loader(
            self.dataset(records, "uniform"),
            batch_size=config.batch_size,
            shuffle=False,
            workers=config.workers,
            seed=self.seed,
        )

    def require_labels(self, records: Sequence[VideoRecord], part: str) -> None:
        """Refuse videos on which no score can be computed: no average precision without a positive.

        Raises
        ------
        DataError
            If none of them has a label.
        """
        if not any(record.labels for record in records):
            raise DataError(
                f"none of the {len(records)} videos of {part} has a label, so nothing can be scored; label more videos"
            )

    @property
    def task(self) -> str:
        """``single-label`` or ``multi-label``."""
        return self.annotations.task

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self.annotations.classes)


class FeatureDataModule(pl.LightningDataModule):
    """Batches for Lightning: random draws, shuffled, for training; for validation as the dataset has it.

    Parameters
    ----------
    train : FeatureDataset
        The videos that train weights.
    val : FeatureDataset or None
        In a search, the videos that train alphas.
    batch_size : int
        Videos a batch, in each process.
    workers : int
        Threads that read ahead; 0 reads when a batch is needed.
    seed : int
        Seeds the order.

    Raises
    ------
    DataError
        If there is a single video, on which batch norm cannot train.
    """

    def __init__(
        self, train: FeatureDataset, val: FeatureDataset | None = None, *, batch_size: int, workers: int, seed: int
    ) -> None:
        super().__init__()
        if any(part is not None and len(part) < 2 for part in (train, val)):
            raise DataError("batch norm trains on at least 2 videos, got 1; annotate more as train, or hold out fewer")
        self.train, self.val = train, val
        self.batch_size, self.workers, self.seed = batch_size, workers, seed

    def train_dataloader(self) -> DataLoader[Any]:
        """Return the training batches."""
        return self._shuffled(self.train, self.seed)

    def val_dataloader(self) -> Any:
        """Return the other half's batches, shuffled by another seed; none outside a search."""
        return [] if self.val is None else self._shuffled(self.val, self.seed + 1)

    def _shuffled(self, dataset: FeatureDataset, seed: int) -> DataLoader[Any]:
        # Batch norm cannot train on a last batch of one video, in whichever process.
        drop_last = len(EpochSampler(len(dataset), shuffle=True)) % self.batch_size == 1
        return make_loader(
            dataset, batch_size=self.batch_size, shuffle=True, workers=self.workers, drop_last=drop_last, seed=seed
        )
