"""Stored features and annotations -> examples and batches.

An example is drawn anew in every epoch: T superframes of the video, one from each of its T segments. Which ones is a
function of the seed, the epoch, the video and the draw, and of nothing else: not of the number of workers or
processes, and not of what was read before, so that a resumed training goes on exactly as an unbroken one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypedDict

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from nni_nastc.data.loader import BatchLoader
from nni_nastc.data.reading import FeatureSource, StoredFeatures
from nni_nastc.data.records import Task, VideoRecord
from nni_nastc.distributed import place
from nni_nastc.errors import DataError
from nni_nastc.features.superframes import random_windows, uniform_windows

if TYPE_CHECKING:
    from nni_nastc.features.store import FeatureStore


class Example(TypedDict):
    """What a dataset gives; a batch has the same keys, with a batch axis B in front."""

    features: Tensor  # (C, T, H, W) float16, in memory (T, C, H, W) as stored; see data.reading.network_input
    target: Tensor  # single-label: () int64, the class number; multi-label: (K,) float32, 0 or 1
    index: Tensor  # () int64, the number of the video in the dataset's records


class FeatureDataset(Dataset[Example]):
    """The videos of some records, as features of T superframes with a target.

    Parameters
    ----------
    store : FeatureStore
        Where the features are. Only the windows that are drawn are read.
    records : sequence of VideoRecord
        The videos; every one must be in the store.
    classes : sequence of str
        K class names, in the order of the targets.
    task : str
        "single-label" or "multi-label".
    timesteps : int, optional
        T. None: as many as the store has of each video, if it was extracted with a fixed number of windows.
    sampling : str
        "random": a random window of each segment, another one in every epoch (training and testing);
        "uniform": the middle window of each segment (validation).
    draws : int
        How often a video is there. Testing averages the scores of 10 random draws.
    seed : int
        Seeds the random draws.
    source : FeatureSource, optional
        Where the features come from: the store's files by default.

    Raises
    ------
    DataError
        If videos are missing in the store, or the parameters do not fit the records or one another.
    FeatureStoreError
        When an example is read whose features are missing or damaged.
    """

    def __init__(
        self,
        store: FeatureStore,
        records: Sequence[VideoRecord],
        classes: Sequence[str],
        task: Task,
        *,
        timesteps: int | None = None,
        sampling: Literal["random", "uniform"] = "random",
        draws: int = 1,
        seed: int = 0,
        source: FeatureSource | None = None,
    ) -> None:
        if not records:
            raise DataError("a dataset needs at least one video, got none; check the subsets of the annotations")
        _check_sampling(sampling, draws)
        _check_in_store(store, records)
        self.store = store
        self.source = StoredFeatures(store) if source is None else source
        self.ids = [record.id for record in records]
        self.windows = [store.videos[name].windows for name in self.ids]
        self.targets = targets_of(records, classes, task)
        self.timesteps = _timesteps(store, timesteps)
        self.sampling = sampling
        self.draws = draws
        self.seed = seed
        self.source.prepare(self.ids)

    def __len__(self) -> int:
        """Return the number of examples: videos times draws."""
        return len(self.ids) * self.draws

    def __getitem__(self, key: int | tuple[int, int]) -> Example:
        """Return an example.

        Parameters
        ----------
        key : int or tuple of (int, int)
            Number of the example, and the epoch (0 if it is left out). Example ``i`` is draw ``i % draws`` of video
            ``i // draws``.
        """
        batch = self.batch([key])
        return Example(features=batch["features"][0], target=batch["target"][0], index=batch["index"][0])

    def batch(self, keys: Sequence[int | tuple[int, int]], *, pin_memory: bool = False) -> Example:
        """Return examples as a batch.

        Parameters
        ----------
        keys : sequence of int or tuple of (int, int)
            As of a single example.
        pin_memory : bool
            Read the features into memory from which a GPU copies by itself.
        """
        drawn = [self._drawn(key) for key in keys]
        index = torch.tensor([number for number, _ in drawn])
        features = self.source.batch([(self.ids[number], windows) for number, windows in drawn], pin_memory=pin_memory)
        return Example(features=features.transpose(1, 2), target=self.targets[index], index=index)

    def _drawn(self, key: int | tuple[int, int]) -> tuple[int, np.ndarray]:
        """Return the number of an example's video, and those of its windows (T,)."""
        position, epoch = key if isinstance(key, tuple) else (key, 0)
        if not 0 <= position < len(self):
            raise IndexError(f"the dataset has examples 0 to {len(self) - 1}, got {position}")
        index, draw = divmod(position, self.draws)
        if self.sampling == "uniform":
            return index, uniform_windows(self.windows[index], self.timesteps)
        rng = np.random.default_rng([self.seed, epoch, index, draw])
        return index, random_windows(self.windows[index], self.timesteps, rng)


class EpochSampler(DistributedSampler[Any]):
    """The examples of one process, each with the epoch that its draw depends on.

    Training (``shuffle``) has a new order and new draws in every epoch, and wraps around so that all processes get
    equally many examples. Evaluation has the order of the dataset and the draws of epoch 0 whatever the epoch, and
    no example twice, so processes may get one more than others.

    It is a DistributedSampler, because Lightning leaves those alone and tells them the epoch.

    Parameters
    ----------
    length : int
        Examples of the dataset.
    shuffle : bool
        True for training, False for evaluation.
    seed : int
        Seeds the order; the same in all processes.
    rank, world : int, optional
        Number of this process, and of all processes. None: as torch.distributed has it at the time, 0 and 1 without.
    """

    def __init__(
        self, length: int, *, shuffle: bool, seed: int = 0, rank: int | None = None, world: int | None = None
    ) -> None:
        self.length = length
        self.shuffle = shuffle
        self.seed = seed
        self.epoch = 0
        self._given = rank, world

    @property
    def place(self) -> tuple[int, int]:
        """Number of this process, and of all processes."""
        rank, world = self._given
        here, processes = place()
        return here if rank is None else rank, processes if world is None else world

    def __len__(self) -> int:
        rank, world = self.place
        return math.ceil(self.length / world) if self.shuffle else len(range(rank, self.length, world))

    def __iter__(self) -> Iterator[tuple[int, int]]:
        rank, world = self.place
        if not self.shuffle:
            return iter([(position, 0) for position in range(rank, self.length, world)])
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.length)
        own = np.resize(order, len(self) * world)[rank::world]  # repeats the order as often as it takes
        return iter([(int(position), self.epoch) for position in own])


def make_loader(
    dataset: FeatureDataset, *, batch_size: int, shuffle: bool, workers: int, drop_last: bool = False, seed: int = 0
) -> DataLoader[Example]:
    """Return batches of a dataset: the same ones however many threads read them.

    Parameters
    ----------
    dataset : FeatureDataset
        What to read.
    batch_size : int
        B, examples a batch.
    shuffle : bool
        True for training, False for evaluation; see :class:`EpochSampler`.
    workers : int
        Threads that read ahead; 0 reads when a batch is asked for.
    drop_last : bool
        Leave out a last batch that is not full.
    seed : int
        Seeds the order.

    Returns
    -------
    DataLoader
        Gives :class:`Example` with a batch axis, the features in pinned memory if there is a GPU.

    Raises
    ------
    DataError
        If dropping the last batch leaves none.
    """
    sampler = EpochSampler(len(dataset), shuffle=shuffle, seed=seed)
    if drop_last and len(sampler) < batch_size:
        raise DataError(
            f"batch_size must be at most the number of training videos where unfull batches are dropped, "
            f"got {batch_size} for {len(sampler)}; choose a smaller one"
        )
    return BatchLoader(dataset, batch_size=batch_size, sampler=sampler, drop_last=drop_last, threads=workers)


def _check_sampling(sampling: str, draws: int) -> None:
    if sampling not in ("random", "uniform"):
        raise DataError(f'sampling must be one of random, uniform, got "{sampling}"')
    if draws < 1:
        raise DataError(f"draws must be at least 1, got {draws}")
    if sampling == "uniform" and draws > 1:
        raise DataError(f"uniform sampling always draws the same, so draws must be 1, got {draws}; use random sampling")


def _check_in_store(store: FeatureStore, records: Sequence[VideoRecord]) -> None:
    missing = [record.id for record in records if record.id not in store]
    if missing:
        raise DataError(
            f"{len(missing)} of {len(records)} annotated videos are missing in the store {store.path},"
            f" first: {missing[0]}; extract them or take them out of the annotations"
        )


def _timesteps(store: FeatureStore, timesteps: int | None) -> int:
    """Return T, by default the number of windows that the store was extracted with."""
    if timesteps is None:
        windows = store.settings.windows
        if not isinstance(windows, int):
            raise DataError(f"the store {store.path} has all windows of its videos; give timesteps, e.g. 32")
        return windows
    if timesteps < 1:
        raise DataError(f"timesteps must be at least 1, got {timesteps}")
    return timesteps


def targets_of(records: Sequence[VideoRecord], classes: Sequence[str], task: Task) -> Tensor:
    """Return the targets of all records.

    Parameters
    ----------
    records : sequence of VideoRecord
        N videos.
    classes : sequence of str
        K class names, in the order of the targets.
    task : str
        "single-label" or "multi-label".

    Returns
    -------
    Tensor
        Class numbers (N,) int64 if single-label; 0 or 1 (N, K) float32 if multi-label.

    Raises
    ------
    DataError
        If a label is none of the classes, or a single-label video has not exactly one.
    """
    number = {name: k for k, name in enumerate(classes)}
    marks = torch.zeros(len(records), len(classes))
    for i, record in enumerate(records):
        if task == "single-label" and len(record.labels) != 1:
            raise DataError(f'single-label needs exactly 1 label a video, got {len(record.labels)} at "{record.id}"')
        for label in record.labels:
            if label not in number:
                raise DataError(
                    f'the labels of video "{record.id}" must be among the {len(classes)} classes, got "{label}";'
                    " use the annotations that the classes are from"
                )
            marks[i, number[label]] = 1.0
    return marks.argmax(dim=1) if task == "single-label" else marks
