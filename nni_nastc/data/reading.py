"""How drawn superframes come from a store into a batch, and from a batch into a network.

A batch is filled in place: each window is read from its file straight into the memory of the batch, float16 and
(T, C, H, W) as it is stored. Nothing is converted or transposed before :func:`network_input`, which does both at once,
on the device of the network: half the bytes to copy there, and no work for the threads that read.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor

from nni_nastc.errors import DataError

if TYPE_CHECKING:
    from nni_nastc.features.store import FeatureStore

Draw = tuple[str, np.ndarray]
"""A video's name, and the numbers (T,) of its windows."""

_MEMORY = Path("/proc/meminfo")


def network_input(features: Tensor, device: torch.device | None = None) -> Tensor:
    """Return features as networks take them.

    Parameters
    ----------
    features : Tensor of shape (B, C, T, H, W)
        Of a batch: float16, in any order in memory. From pinned memory they are copied without waiting.
    device : torch.device, optional
        Where the network is; where the features are by default.

    Returns
    -------
    Tensor of shape (B, C, T, H, W)
        float32, contiguous.
    """
    features = features.to(device or features.device, non_blocking=True)
    return features.to(torch.float32, memory_format=torch.contiguous_format)


class FeatureSource(Protocol):
    """Where the features of drawn windows come from."""

    def prepare(self, names: Sequence[str]) -> None:
        """Get ready for draws from these videos."""

    def batch(self, draws: Sequence[Draw], *, pin_memory: bool = False) -> Tensor:
        """Return the windows of B draws, (B, T, C, H, W) float16."""


class StoredFeatures:
    """Features that are read from the store's files each time they are drawn.

    Parameters
    ----------
    store : FeatureStore
        An open store.
    """

    def __init__(self, store: FeatureStore) -> None:
        self.store = store

    def prepare(self, names: Sequence[str]) -> None:
        """Do nothing: the operating system keeps what it can of the files."""

    def batch(self, draws: Sequence[Draw], *, pin_memory: bool = False) -> Tensor:
        """Read.

        Parameters
        ----------
        draws : sequence of (str, int array of shape (T,))
            Videos and their windows.
        pin_memory : bool
            Read into memory from which a GPU copies by itself.

        Returns
        -------
        Tensor of shape (B, T, C, H, W)
            As stored.

        Raises
        ------
        FeatureStoreError
            If features are missing, damaged or of different shapes.
        """
        shape = (len(draws), len(draws[0][1]), *self.store.videos[draws[0][0]].shape)
        features = torch.empty(shape, dtype=torch.float16, pin_memory=pin_memory)
        for (name, windows), row in zip(draws, features.numpy(), strict=True):
            self.store.read(name, windows, out=row)
        return features


class KeptFeatures:
    """Features that are read once and stay in memory, of the host or of a GPU.

    Every process has its own. Videos that several datasets share are kept once.

    Parameters
    ----------
    store : FeatureStore
        An open store.
    device : torch.device
        Whose memory.
    """

    def __init__(self, store: FeatureStore, device: torch.device) -> None:
        self.store = store
        self.device = device
        self._videos: dict[str, Tensor] = {}  # (windows, C, H, W)

    def prepare(self, names: Sequence[str]) -> None:
        """Read all windows of these videos.

        Raises
        ------
        DataError
            If they do not fit.
        FeatureStoreError
            If features are missing or damaged.
        """
        new = [name for name in dict.fromkeys(names) if name not in self._videos]
        shapes = {name: (self.store.videos[name].windows, *self.store.videos[name].shape) for name in new}
        needed = sum(2 * int(np.prod(shape)) for shape in shapes.values())
        if needed > (free := free_bytes(self.device)):
            raise DataError(
                f"data.cache keeps all features in memory: these {len(new)} videos need {needed / 1e9:.3g} GB, "
                f"{self.device} has {free / 1e9:.3g} GB free; use cache=none"
            )
        for name, shape in shapes.items():
            features = torch.empty(shape, dtype=torch.float16)
            self.store.read(name, np.arange(shape[0]), out=features.numpy())
            self._videos[name] = features.to(self.device)

    def batch(self, draws: Sequence[Draw], *, pin_memory: bool = False) -> Tensor:
        """Copy the windows of videos that :meth:`prepare` was told; see :meth:`StoredFeatures.batch`.

        In the memory of a GPU nothing is pinned.
        """
        shape = (len(draws), len(draws[0][1]), *self._videos[draws[0][0]].shape[1:])
        pin_memory = pin_memory and self.device.type == "cpu"
        features = torch.empty(shape, dtype=torch.float16, device=self.device, pin_memory=pin_memory)
        for (name, windows), row in zip(draws, features, strict=True):
            torch.index_select(self._videos[name], 0, torch.from_numpy(windows).to(self.device), out=row)
        return features


def free_bytes(device: torch.device) -> int:
    """Return how much memory a device could still give."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    available = next(line for line in _MEMORY.read_text().splitlines() if line.startswith("MemAvailable"))
    return 1024 * int(available.split()[1])
