"""Files that are written whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError

from nni_nastc.errors import DiskError, NastcError, RunFolderError


@contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """Yield a temporary file beside ``path`` that takes its place when the block ends well.

    Parameters
    ----------
    path : Path or str
        The file to write. Its folder must exist.

    Yields
    ------
    Path
        The temporary file (empty). It has the suffix of ``path``, because writers choose a format by it.

    Raises
    ------
    DiskError
        If the disk fills up. Nothing of the file is left behind, and an older ``path`` is kept.
    """
    path = Path(path)
    handle, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        with disk_errors(path):
            yield temporary
            temporary.chmod(0o644)
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def disk_errors(path: Path | str) -> Iterator[None]:
    """Turn a full disk inside the block into a :class:`DiskError` that names ``path``."""
    try:
        yield
    except Exception as error:
        if not _is_full_disk(error):
            raise
        raise DiskError(
            f"the disk is full: {path} could not be written; free some space or choose another folder, then run again"
        ) from error


def _is_full_disk(error: Exception) -> bool:
    """Tell a full disk (or quota), which the writer of safetensors reports in words only."""
    full = (errno.ENOSPC, errno.EDQUOT)
    return getattr(error, "errno", None) in full or any(f"(os error {code})" in str(error) for code in full)


def make_folder(folder: Path | str, error: type[NastcError] = RunFolderError) -> None:
    """Make a folder and those above it, unless it is there.

    Raises
    ------
    NastcError
        ``error``, if it cannot be made; :class:`DiskError` if the disk is full.
    """
    try:
        with disk_errors(folder):
            Path(folder).mkdir(parents=True, exist_ok=True)
    except DiskError:
        raise
    except (OSError, ValueError) as problem:
        reason = getattr(problem, "strerror", None) or problem
        raise error(f"the folder {folder} cannot be made ({reason}); choose another") from None


def check_folder(folder: Path | str, error: type[NastcError] = RunFolderError) -> None:
    """Refuse a folder that :func:`make_folder` could not make, or that could not be written to; make nothing.

    Raises
    ------
    NastcError
        ``error``.
    """
    path = Path(folder).absolute()
    try:
        there = next(parent for parent in (path, *path.parents) if _is_there(parent))
        if not there.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, f"{there} is no folder")
        if not os.access(there, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, f"{there} cannot be written to")
    except (OSError, ValueError) as problem:
        reason = getattr(problem, "strerror", None) or problem
        raise error(f"the folder {folder} cannot be made ({reason}); choose another") from None


def _is_there(path: Path) -> bool:
    """Tell whether something has this name, a broken link included; an error if nothing can have it."""
    try:
        path.lstat()
    except FileNotFoundError:
        return False
    return True


def write_json(path: Path | str, value: Any) -> None:
    """Write ``value`` as indented JSON, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path: Path | str, error: type[NastcError] = NastcError) -> Any:
    """Read a JSON file.

    Parameters
    ----------
    path : Path or str
        The file.
    error : type of NastcError
        What to raise when the file is missing or is not JSON.

    Returns
    -------
    Any
        The parsed value.
    """
    path = Path(path)
    if not path.is_file():
        raise error(f"no such file: {path}; check the path")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as problem:
        raise error(f"{path} is not JSON in UTF-8 ({problem}); mend it or write it anew") from problem


def read_object(path: Path | str, error: type[NastcError] = NastcError) -> dict[str, Any]:
    """Read a JSON file that holds an object; ``error`` if it holds something else, or as :func:`read_json`."""
    value = read_json(path, error)
    if not isinstance(value, dict):
        raise error(f"{path} must hold a JSON object, got {type(value).__name__}; it was edited or damaged")
    return value


def typed_fields(schema: type, value: Any) -> dict[str, Any]:
    """Check JSON values against the fields of a dataclass.

    Parameters
    ----------
    schema : type
        The dataclass.
    value : Any
        An object whose keys are names of its fields; keys that are not are left to its constructor.

    Returns
    -------
    dict
        The same, lists turned into tuples where the field is one.

    Raises
    ------
    TypeError
        If it is no object, or values have other types than their fields; all are named.
    """
    if not isinstance(value, Mapping):
        raise TypeError(f"an object is needed, got {value!r}")
    fields, problems = dict(value), []
    for name, adapter in _adapters(schema).items():
        try:
            if name in fields:
                fields[name] = adapter.validate_python(fields[name])
        except ValidationError as problem:
            rule = problem.errors()[0]["msg"]
            problems.append(f"{name}: {rule[0].lower()}{rule[1:]}, got {str(value[name])[:80]!r}")
    if problems:
        raise TypeError("; ".join(problems))
    return fields


@cache
def _adapters(schema: type) -> dict[str, TypeAdapter[Any]]:
    return {name: TypeAdapter(hint) for name, hint in get_type_hints(schema).items()}


def sha256_file(path: Path | str) -> str:
    """Return the SHA-256 digest of a file as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
