"""The folder of a run: what was asked, with what it was run, and whether it may be continued."""

from __future__ import annotations

import fcntl
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

from nni_nastc import __version__
from nni_nastc.config import Section, dump_config, load_config
from nni_nastc.distributed import is_main
from nni_nastc.errors import RunFolderError
from nni_nastc.files import atomic_path, make_folder, write_json

CONFIG_FILE = "config.yaml"
SPLIT_FILE = "split.json"
_PACKAGES = ("torch", "pytorch-lightning", "nni", "numpy")


@contextmanager
def open_run(folder: Path, config: Section, result: str) -> Iterator[bool]:
    """Make a folder for a run, or open the folder of the same run to continue it; no other process may meanwhile.

    Writes ``config.yaml`` (every default written out) and ``environment.json`` (versions, command).

    Parameters
    ----------
    folder : Path
        The output folder.
    config : Section
        The configuration of the run.
    result : str
        The file that a finished run has.

    Yields
    ------
    bool
        Whether the run is finished already.

    Raises
    ------
    RunFolderError
        If the folder holds another run or other files, cannot be made, or another process is at work in it.
    """
    make_folder(folder)
    with _alone(folder):
        yield _is_finished(folder, config, result)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold a folder against other processes that run the same command, but for those of one distributed run."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        if is_main():
            _lock(descriptor, folder)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, folder: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise RunFolderError(
            f"another process is at work in the output folder {folder}; wait until it has ended, or choose another"
        ) from None
    except OSError:  # some network file systems cannot lock folders
        return


def _is_finished(folder: Path, config: Section, result: str) -> bool:
    """Tell whether the folder holds this very run, finished; process 0 prepares it if it is empty."""
    path = folder / CONFIG_FILE
    if path.is_file():
        before = load_config(type(config), path)  # defaults stand for keys that an older release did not have
        if differing := _differences(before.model_dump(mode="json"), config.model_dump(mode="json")):
            raise RunFolderError(
                f"the output folder {folder} holds another run (other values of {', '.join(differing)}); "
                "choose another output, or remove the folder"
            )
        return (folder / result).is_file()
    if not is_main():
        return False
    if any(not file.name.startswith(".") for file in folder.iterdir()):
        raise RunFolderError(f"the output folder {folder} holds other files; choose another output, or empty it")
    with atomic_path(path) as temporary:
        temporary.write_text(dump_config(config), encoding="utf-8")
    write_json(folder / "environment.json", environment())
    return False


def environment() -> dict[str, Any]:
    """Return the versions and the command with which a run was made."""
    return {
        "nni_nastc": __version__,
        "git_revision": _git_revision(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: metadata.version(name) for name in _PACKAGES},
        "command": sys.argv,
    }


def _git_revision() -> str | None:
    """Return the revision of the checkout that the package runs from, or None outside one."""
    here = Path(__file__).parent
    if not (here.parent / ".git").exists():
        return None
    done = subprocess.run(["git", "-C", str(here), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return done.stdout.strip() or None


def _differences(before: dict[str, Any], now: dict[str, Any], prefix: str = "") -> list[str]:
    """Return the dotted keys whose values differ."""
    differing = []
    for key in sorted({*before, *now}):
        one, other = before.get(key), now.get(key)
        if isinstance(one, dict) and isinstance(other, dict):
            differing += _differences(one, other, f"{prefix}{key}.")
        elif one != other:
            differing.append(prefix + key)
    return differing
