"""Time and memory, measured so that two things can be compared: in one run, in turns, medians with their spread."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from nni_nastc.devices import synchronise

Progress = Callable[[str], None]
"""Is told what comes next."""


def summary(seconds: list[float]) -> dict[str, Any]:
    """Return median, smallest and largest of some times."""
    return {
        "median_s": statistics.median(seconds),
        "min_s": min(seconds),
        "max_s": max(seconds),
        "repeats": len(seconds),
    }


def in_turns(
    timed: Mapping[str, Callable[[], float]], repeats: int, progress: Progress, *, warm_up: bool = True
) -> dict[str, list[float]]:
    """Call each of ``timed`` in turn, once to warm up and ``repeats`` times to measure.

    Parameters
    ----------
    timed : mapping
        Name -> what returns how many seconds it took.
    repeats : int
        Measured rounds.
    progress : callable
        Told the name of each before it is called.
    warm_up : bool
        Whether there is a round to warm up.

    Returns
    -------
    dict
        Name -> seconds of each round.
    """
    times: dict[str, list[float]] = {name: [] for name in timed}
    for turn in range(repeats + warm_up):
        for name, measure in timed.items():
            progress(name)
            seconds = measure()
            if turn >= warm_up:
                times[name].append(seconds)
    return times


def compare(
    timed: Mapping[str, Callable[[], float]],
    repeats: int,
    progress: Progress,
    *,
    per: int = 1,
    warm_up: bool = True,
) -> dict[str, Any]:
    """Measure in turns, and compare with ``ours``.

    Parameters
    ----------
    timed, repeats, progress, warm_up
        See :func:`in_turns`; one of ``timed`` is called "ours".
    per : int
        Times are of one of so many.

    Returns
    -------
    dict
        Name -> summary; and ``ratios``, name -> by how much it takes longer than ours: median, smallest and largest.
    """
    times = in_turns(timed, repeats, progress, warm_up=warm_up)
    ratios = {
        name: sorted(theirs / ours for theirs, ours in zip(seconds, times["ours"], strict=True))
        for name, seconds in times.items()
        if name != "ours"
    }
    return {
        **{name: summary([s / per for s in seconds]) for name, seconds in times.items()},
        "ratios": {
            name: {"median": statistics.median(values), "min": values[0], "max": values[-1]}
            for name, values in ratios.items()
        },
    }


def peak_memory(function: Callable[[], Any], device: torch.device) -> int:
    """Call a function; return by how many bytes memory rose above what was taken before.

    On a CPU that is the process's resident memory, as Linux counts its peak; on a GPU what PyTorch allocated.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        function()
        synchronise(device)
        return torch.cuda.max_memory_allocated(device) - before
    Path("/proc/self/clear_refs").write_text("5")  # sets the peak to what is resident now
    before = _status("VmRSS")
    function()
    return _status("VmHWM") - before


def _status(key: str) -> int:
    """Return a size of this process in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(key))
