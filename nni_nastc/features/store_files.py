"""The file of one video in a feature store: safetensors, written piece by piece and read window by window.

The layout is the safetensors format: 8 bytes with the length of a JSON header, the header, then the tensors' bytes
without gaps. Here ``times`` (windows, 2) float64 come first, then ``features`` (windows, C, H, W) float16. Writing it
ourselves keeps memory flat, however long the video; reading it ourselves takes half the time for scattered windows.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from nni_nastc.errors import FeatureStoreError

_HEADER_LENGTH_BYTES = 8
_ALIGNMENT_BYTES = 8
# Of float16: all ones for NaN and infinity, and only for them.
_EXPONENT = np.uint16(0x7C00)


class VideoWriter:
    """Takes the features of one video, batch after batch. Made by :meth:`FeatureStore.writer`.

    Parameters
    ----------
    stream : BinaryIO
        An empty file.
    name : str
        The video, for messages.
    windows : int
        How many there will be.
    shape : tuple of int
        (C, H, W) of a window.
    metadata : mapping of str to str
        Goes into the header.
    """

    def __init__(
        self, stream: BinaryIO, name: str, windows: int, shape: tuple[int, ...], metadata: Mapping[str, str]
    ) -> None:
        self._stream = stream
        self._name = name
        self._shape = (windows, *shape)
        self._times = np.empty((windows, 2), np.float64)
        self._written = 0
        header = _header(self._times, self._shape, metadata)
        stream.write(len(header).to_bytes(_HEADER_LENGTH_BYTES, "little") + header)
        self._times_start = stream.tell()
        stream.write(self._times.tobytes())

    def append(self, features: NDArray[Any], times: NDArray[Any]) -> None:
        """Add windows.

        Parameters
        ----------
        features : ndarray
            (n, C, H, W); stored as float16.
        times : ndarray
            (n, 2) start and end in seconds.

        Raises
        ------
        FeatureStoreError
            If a feature is NaN or infinite in float16, or a shape is wrong.
        """
        with np.errstate(over="ignore"):  # refused below, in words
            features = np.ascontiguousarray(features, dtype=np.float16)
        end = self._written + len(features)
        if features.shape[1:] != self._shape[1:] or times.shape != (len(features), 2) or end > self._shape[0]:
            raise FeatureStoreError(
                f"{self._name}: features must be {self._shape} in all and times (windows, 2): "
                f"given {features.shape} and {times.shape} after {self._written} windows"
            )
        require_finite(self._name, features)
        self._stream.write(features.data)
        self._times[self._written : end] = times
        self._written = end

    def finish(self) -> None:
        """Write the times, when all windows are there."""
        if self._written != self._shape[0]:
            raise FeatureStoreError(
                f"{self._name}: {self._shape[0]} windows were announced, {self._written} came; extract the video again"
            )
        self._stream.seek(self._times_start)
        self._stream.write(self._times.tobytes())
        self._stream.flush()


class VideoFile:
    """The stored features of one video, open for reading. Made by :func:`open_video`.

    Parameters
    ----------
    descriptor : int
        Of the open file.

    Attributes
    ----------
    metadata : dict
        Str to str, as it was written.
    shape : tuple of int
        (windows, C, H, W).
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        size = os.fstat(descriptor).st_size
        length = int.from_bytes(os.pread(descriptor, _HEADER_LENGTH_BYTES, 0), "little")
        self._data_start = _HEADER_LENGTH_BYTES + length
        if self._data_start > size:
            raise ValueError("the header is cut off")
        header = json.loads(os.pread(descriptor, length, _HEADER_LENGTH_BYTES))
        self.metadata: dict[str, str] = header.get("__metadata__", {})
        self._times_at, times_shape = _place(header["times"], "F64", 8, size - self._data_start)
        self._features_at, self.shape = _place(header["features"], "F16", 2, size - self._data_start)
        if len(self.shape) != 4 or times_shape != (self.shape[0], 2):
            raise ValueError(f"features of shape {self.shape} and times of shape {times_shape}")

    def read_into(self, out: NDArray[np.float16], indices: NDArray[np.integer] | Sequence[int]) -> None:
        """Read the features of some windows into ``out``, (T, C, H, W) float16 without gaps."""
        for index, window in zip(indices, out, strict=True):
            self._fill(window, self._features_at + int(index) * window.nbytes)

    def times(self) -> NDArray[np.float64]:
        """Return start and end of all windows in seconds, (windows, 2)."""
        times = np.empty((self.shape[0], 2), np.float64)
        self._fill(times, self._times_at)
        return times

    def _fill(self, array: NDArray[Any], offset: int) -> None:
        if os.preadv(self._descriptor, [array], self._data_start + offset) != array.nbytes:  # type: ignore[list-item]
            raise ValueError("it is cut off")


@contextmanager
def open_video(path: Path) -> Iterator[VideoFile]:
    """Open the file of a video.

    Raises
    ------
    FeatureStoreError
        If it is missing, damaged or cut off, here or while it is read.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            yield VideoFile(descriptor)
        finally:
            os.close(descriptor)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as problem:
        if isinstance(problem, FeatureStoreError):
            raise
        raise FeatureStoreError(
            f"{path} is missing or damaged ({problem}); remove it and extract the video again"
        ) from problem


def require_finite(name: str, features: NDArray[np.float16]) -> None:
    """Refuse NaN and infinity in windows, (T, C, H, W).

    Raises
    ------
    FeatureStoreError
        If there is one.
    """
    bits = features.view(np.uint16)
    # After a ReLU nothing is negative, and the largest number tells at once. Else one window after the other, so that
    # the temporary array stays in the cache.
    if bits.max(initial=0) >= _EXPONENT and any((window & _EXPONENT).max() == _EXPONENT for window in bits):
        raise FeatureStoreError(
            f"the features of {name} must be finite: given NaN or infinity; check the weights, extract the video again"
        )


def hold(stream: BinaryIO) -> None:
    """Mark a temporary file as in use, until it is closed or its process ends."""
    fcntl.flock(stream, fcntl.LOCK_EX)


def remove_abandoned(paths: Sequence[Path]) -> None:
    """Remove those of the temporary files that no process holds any more."""
    for path in paths:
        # Held ones are skipped, and so are those that took their place in the meantime.
        with suppress(BlockingIOError, FileNotFoundError), open(path, "rb") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()


def _header(times: NDArray[np.float64], shape: tuple[int, ...], metadata: Mapping[str, str]) -> bytes:
    """Return the JSON header, padded so that what follows is aligned."""
    end = times.nbytes + 2 * math.prod(shape)
    header = {
        "__metadata__": dict(metadata),
        "times": {"dtype": "F64", "shape": times.shape, "data_offsets": [0, times.nbytes]},
        "features": {"dtype": "F16", "shape": shape, "data_offsets": [times.nbytes, end]},
    }
    encoded = json.dumps(header, separators=(",", ":")).encode()
    return encoded.ljust(-(-len(encoded) // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES)


def _place(tensor: Mapping[str, Any], dtype: str, item_bytes: int, available: int) -> tuple[int, tuple[int, ...]]:
    """Return where a tensor starts and its shape, if the header makes sense and the file reaches to its end."""
    start, end = tensor["data_offsets"]
    shape = tuple(tensor["shape"])
    if tensor["dtype"] != dtype or end - start != item_bytes * math.prod(shape):
        raise ValueError(f"{tensor['dtype']} of shape {shape} in {end - start} bytes")
    if not 0 <= start <= end <= available:
        raise ValueError("it is cut off")
    return start, shape
