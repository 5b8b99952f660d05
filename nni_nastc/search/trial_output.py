"""Where NNI keeps what a trial leaves, and where its web page looks for it."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def experiment_folder() -> Path | None:
    """Return the folder of the experiment; None outside one, and on another machine than the manager's."""
    folder = Path(os.environ.get("NNI_OUTPUT_DIR", ""))
    return next((path for path in folder.parents if (path / "db" / "nni.sqlite").is_file()), None)


def show_to_tensorboard(folder: Path) -> None:
    """Link a trial's output to where the TensorBoard button of NNI's web page looks for it, which is elsewhere."""
    experiment = experiment_folder()
    if experiment is None:
        return
    place = experiment / "trials" / folder.name
    place.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):
        (place / "output").symlink_to(folder.resolve(), target_is_directory=True)
