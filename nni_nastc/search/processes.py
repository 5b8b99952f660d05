"""The processes of a search by trials: the command of a trial, what an earlier search left, and signals."""

from __future__ import annotations

import os
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from nni_nastc.experiments.server import find_managers, stop_manager

NNI_FOLDER = "nni"
"""Where NNI keeps the experiment of a search, in the folder of the search."""

TRIAL_MODULE = "nni_nastc.search.network_trial"


def trial_command(run: Path) -> str:
    """Return the shell command of a trial of a search."""
    return " ".join(map(shlex.quote, (sys.executable, "-m", TRIAL_MODULE, str(run.resolve()))))


def stop_orphans(run: Path) -> None:
    """Stop the managers and the trials of a search that are still running."""
    folder = (run / NNI_FOLDER).resolve()
    for manager in find_managers():
        if manager.folder.parent.resolve() == folder:
            stop_manager(manager)
    trials = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            ours = process.uids().real == os.getuid()
            if ours and process.cmdline()[-3:] == ["-m", TRIAL_MODULE, str(run.resolve())]:
                process.kill()
                trials.append(process)
    psutil.wait_procs(trials, timeout=10)


def uninterrupted(function: Callable[[Path], None], run: Path) -> None:
    """Call a function to its end, even if Ctrl-C is pressed again."""
    if threading.current_thread() is not threading.main_thread():
        return function(run)
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        function(run)
    finally:
        signal.signal(signal.SIGINT, handler)


@contextmanager
def terminable() -> Iterator[None]:
    """Let SIGTERM raise ``SystemExit`` in the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    handler = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, handler)
