"""Arrays of numbers in files of others: ``.npy``, ``.npz``, ``.h5``, ``.safetensors``. Nothing of a file is ever run.

A pickle may call any function when it is read, so files that are pickles, or hold some (NumPy's object arrays), are
refused.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from nni_nastc.errors import FeatureStoreError, NastcError

HDF5_SUFFIXES = (".h5", ".hdf5")
ARRAY_SUFFIXES = (".npy", ".npz", ".safetensors", *HDF5_SUFFIXES)
PICKLE_SUFFIXES = (".pkl", ".pickle", ".pt", ".pth")

_PICKLE_START = b"\x80"
_PICKLED = "it is a pickle, which can run any code when it is read; save plain numbers, e.g. with numpy.save"


@dataclass(frozen=True)
class StoredArray:
    """An array that has not been read yet.

    Parameters
    ----------
    shape : tuple of int
        Its shape.
    problem : str
        Why it cannot be used; empty if it can.
    load : callable
        Reads it, while its file is open.
    """

    shape: tuple[int, ...]
    problem: str
    load: Callable[[], NDArray[Any]]


@contextmanager
def open_arrays(path: Path) -> Iterator[dict[str, StoredArray]]:
    """Open a file and list its arrays.

    Parameters
    ----------
    path : Path
        With one of :data:`ARRAY_SUFFIXES`.

    Yields
    ------
    dict
        Name -> array; the only array of a ``.npy`` has the name "".

    Raises
    ------
    FeatureStoreError
        If the file is missing, damaged or a pickle; here or while an array is read.
    """
    suffix = path.suffix.lower()
    try:
        if suffix not in _READERS:
            raise ValueError(
                _PICKLED if suffix in PICKLE_SUFFIXES else f"its name ends on none of {', '.join(ARRAY_SUFFIXES)}"
            )
        with _READERS[suffix](path) as arrays:
            yield arrays
    except NastcError:
        raise
    except Exception as problem:  # damaged files end in errors of almost any class
        reason = " ".join(str(problem).split()) or type(problem).__name__
        raise FeatureStoreError(f"{path} cannot be imported: {reason}") from problem


def require_hdf5() -> ModuleType:
    """Return h5py.

    Raises
    ------
    FeatureStoreError
        If it is not installed.
    """
    try:
        import h5py
    except ImportError:
        raise FeatureStoreError(
            "HDF5 files need h5py, which is not installed; pip install 'nni_nastc[hdf5]', or pip install h5py"
        ) from None
    return h5py


@contextmanager
def _open_npy(path: Path) -> Iterator[dict[str, StoredArray]]:
    with open(path, "rb") as stream:
        shape, problem = _read_header(stream)
    yield {"": StoredArray(shape, problem, lambda: np.load(path, mmap_mode="r", allow_pickle=False))}


@contextmanager
def _open_npz(path: Path) -> Iterator[dict[str, StoredArray]]:
    with open(path, "rb") as stream:
        if stream.read(1) == _PICKLE_START:
            raise ValueError(_PICKLED)
    with zipfile.ZipFile(path) as archive:
        found = {}
        for member in archive.namelist():
            with archive.open(member) as stream:
                shape, problem = _read_header(stream)  # type: ignore[arg-type]
            found[member.removesuffix(".npy")] = StoredArray(shape, problem, partial(_load_member, archive, member))
        yield found


@contextmanager
def _open_hdf5(path: Path) -> Iterator[dict[str, StoredArray]]:
    h5py = require_hdf5()
    with h5py.File(path, "r") as file:
        found = {}

        def visit(name: str, item: Any) -> None:
            if isinstance(item, h5py.Dataset):
                found[name] = StoredArray(item.shape or (), _not_numbers(item.dtype), lambda: item[()])

        file.visititems(visit)
        yield found


@contextmanager
def _open_safetensors(path: Path) -> Iterator[dict[str, StoredArray]]:
    from safetensors import safe_open

    def load(name: str) -> NDArray[Any]:
        tensor = file.get_tensor(name)
        return (tensor.float() if tensor.is_floating_point() else tensor).numpy()  # NumPy has no bfloat16

    with safe_open(path, framework="pt") as file:
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        yield {name: StoredArray(shape, "", partial(load, name)) for name, shape in shapes.items()}


_READERS = {
    ".npy": _open_npy,
    ".npz": _open_npz,
    ".safetensors": _open_safetensors,
    **dict.fromkeys(HDF5_SUFFIXES, _open_hdf5),
}


def _read_header(stream: BinaryIO) -> tuple[tuple[int, ...], str]:
    """Return the shape of a ``.npy``, and why it cannot be used."""
    start = stream.read(npy.MAGIC_LEN)
    if start.startswith(_PICKLE_START):
        raise ValueError(_PICKLED)
    if not start.startswith(npy.MAGIC_PREFIX):
        raise ValueError("it is no array of NumPy, or is damaged")
    read_header = npy.read_array_header_1_0 if start[-2] == 1 else npy.read_array_header_2_0
    shape, _, dtype = read_header(stream)
    return shape, _PICKLED if dtype.hasobject else _not_numbers(dtype)


def _load_member(archive: zipfile.ZipFile, member: str) -> NDArray[Any]:
    with archive.open(member) as stream:
        return npy.read_array(stream, allow_pickle=False)


def _not_numbers(dtype: np.dtype) -> str:
    return "" if dtype.kind in "fiu" else f"features must be real numbers: given {dtype}"
