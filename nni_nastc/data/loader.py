"""The loader: batches are read ahead by threads.

Threads instead of processes, because reading is all that there is to do: it leaves Python's lock free, the batch is
read straight to where the network takes it from (pinned memory if there is a GPU), and nothing is sent between
processes. An error of the store reaches the caller as it is.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import DataLoader, Sampler

if TYPE_CHECKING:
    from nni_nastc.data.dataset import Example, FeatureDataset

BATCHES_AHEAD = 2
"""Batches a thread that are read or being read before they are asked for."""


class BatchLoader(DataLoader["Example"]):
    """Batches of a dataset, in the order of its sampler.

    Parameters
    ----------
    dataset : FeatureDataset
        What to read.
    batch_size : int
        B.
    sampler : Sampler
        The examples of each epoch.
    drop_last : bool
        Leave out a last batch that is not full.
    threads : int
        That read ahead; 0 reads when a batch is asked for.
    """

    dataset: FeatureDataset

    def __init__(
        self, dataset: FeatureDataset, *, batch_size: int, sampler: Sampler[Any], drop_last: bool, threads: int
    ) -> None:
        super().__init__(
            dataset,
            batch_size=batch_size,
            sampler=sampler,
            drop_last=drop_last,
            pin_memory=torch.cuda.is_available(),
        )
        self.threads = threads

    def __iter__(self) -> Iterator[Example]:  # type: ignore[override]
        keys = iter(self.batch_sampler)  # type: ignore[arg-type]
        return self._read_ahead(keys) if self.threads else map(self._read, keys)

    def _read(self, keys: list[Any]) -> Example:
        return self.dataset.batch(keys, pin_memory=self.pin_memory)

    def _read_ahead(self, keys: Iterator[list[Any]]) -> Iterator[Example]:
        pool = ThreadPoolExecutor(self.threads, thread_name_prefix="reader")
        try:
            waiting: deque[Future[Example]] = deque(
                pool.submit(self._read, batch) for batch in islice(keys, BATCHES_AHEAD * self.threads)
            )
            while waiting:
                example = waiting.popleft().result()
                waiting.extend(pool.submit(self._read, batch) for batch in islice(keys, 1))
                yield example
        finally:
            pool.shutdown(cancel_futures=True)
