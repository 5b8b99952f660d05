"""Read a pickle of nested dictionaries of NumPy arrays without running anything that the file asks for.

A pickle may call any function that it names. This reader knows the three names that pickled arrays need, gives the
file stand-ins for them that only hold data, and refuses every other name.
"""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from nni_nastc.errors import WeightsError

_FLOATS = ("f2", "f4", "f8")


class _DType:
    """Stands for ``numpy.dtype``: a floating-point type, whose state tells the order of its bytes."""

    def __init__(self, code: str, *_: Any) -> None:
        if code not in _FLOATS:
            raise ValueError(f"an array of type {code!r} instead of floating-point numbers")
        self.name = code

    def __setstate__(self, state: tuple) -> None:
        byte_order = state[1]
        if byte_order not in ("<", ">"):
            raise ValueError(f"the unknown byte order {byte_order!r}")
        self.name = byte_order + self.name


class _Array:
    """Stands for NumPy's array constructor: ``value`` holds the array once its state is set."""

    value: np.ndarray

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, state: tuple) -> None:
        _, shape, dtype, is_fortran, data = state
        self.value = np.frombuffer(data, dtype.name).reshape(shape, order="F" if is_fortran else "C")


_STAND_INS: dict[tuple[str, str], type | None] = {
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _Array,  # its name from NumPy 2 on
    ("numpy", "ndarray"): None,  # only handed to the constructor
    ("numpy", "dtype"): _DType,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> type | None:
        """Return the stand-in, or refuse the file."""
        if (module, name) not in _STAND_INS:
            raise WeightsError(f"it wants to run {module}.{name}, which no weights need")
        return _STAND_INS[module, name]


def read_arrays(data: bytes, source: Path | str) -> dict[str, Any]:
    """Read nested dictionaries of floating-point arrays from a pickle.

    Parameters
    ----------
    data : bytes
        The pickle.
    source : Path or str
        Where it came from, for error messages.

    Returns
    -------
    dict
        Name to array, or to a further dictionary.

    Raises
    ------
    WeightsError
        If the pickle names anything but NumPy's array constructors (nothing of it is run), is damaged, or holds
        anything but dictionaries of arrays.
    """
    try:
        return _arrays(_Unpickler(io.BytesIO(data)).load())
    except WeightsError as problem:
        raise WeightsError(f"{source} was refused: {problem}; get the file from a source that you trust") from None
    except Exception as problem:  # damaged pickles end in errors of almost any class
        reason = " ".join(str(problem).split())
        raise WeightsError(f"{source} is damaged, or is no pickle of arrays ({reason}); get it anew") from problem


def _arrays(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"a {type(value).__name__} instead of a dictionary")
    return {str(key): item.value if isinstance(item, _Array) else _arrays(item) for key, item in value.items()}
