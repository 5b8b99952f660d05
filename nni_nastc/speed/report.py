"""The search step, the fixed network and the extraction, each beside a named alternative, as a table and JSON."""

from __future__ import annotations

import os
import statistics
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch

from nni_nastc.bench.tables import Column, markdown, write_table
from nni_nastc.devices import choose_device, has_bfloat16
from nni_nastc.errors import ConfigError
from nni_nastc.files import make_folder, write_json
from nni_nastc.nn.network import check_timesteps
from nni_nastc.runs import environment
from nni_nastc.search.filters import measured_filters
from nni_nastc.speed.counting import count
from nni_nastc.speed.extraction import measure_extraction
from nni_nastc.speed.fixed_network import measure_fixed_network
from nni_nastc.speed.measure import Progress, compare
from nni_nastc.speed.rates import machine_rates
from nni_nastc.speed.search_step import STEPS, StepSize, measure_step

SPEED_FILE = "speed.json"
_TITLES = {
    "stock_nni": "stock NNI",
    "published_darts": "DARTS as published",
    "timeception": "Timeception",
    "compiled": "the same, compiled",
    "bfloat16": "the same in bfloat16",
    "plain": "a plain module",
    "unfolded": "the same, not folded",
    "convolutions": "its convolutions alone",
    "bfloat16_convolutions": "its convolutions alone, in bfloat16",
}
COLUMNS = (
    Column("what", "what"),
    Column("ours_s", "ours, s", lambda v: f"{v:.3g}"),
    Column("other", "beside"),
    Column("other_s", "its, s", lambda v: f"{v:.3g}"),
    Column("ratio", "times as fast", lambda v: f"{v:.2f}"),
    Column("spread", "smallest to largest of the ratios"),
)


def measure_speed(
    out: Path | str,
    *,
    batch: int = 4,
    timesteps: tuple[int, ...] = (32, 128),
    repeats: int = 5,
    channels: int = 1024,
    layers: int = 3,
    device: str = "auto",
    progress: Progress = lambda what: None,
) -> dict[str, Any]:
    """Measure everything in this run, the alternatives in turns.

    Parameters
    ----------
    out : Path or str
        Gets ``speed.json``, and ``table`` as ``.md``, ``.csv`` and ``.json``.
    batch : int
        Videos of a search step at the smallest T; at others as many as have the same number of superframes, at least
        two.
    timesteps : tuple of int
        T of the search steps.
    repeats : int
        Measured rounds, after one to warm up.
    channels, layers : int
        C and L of the search steps.
    device : str
        As :func:`nni_nastc.devices.choose_device` takes it.
    progress : callable
        Told what comes next.

    Returns
    -------
    dict
        The content of ``speed.json``.

    Raises
    ------
    ConfigError
        If a number is too small.
    ModelError
        If there is no such device, or T is not divisible by 2^L.
    RunFolderError
        If the folder cannot be made.
    """
    chosen = choose_device(device)
    if min(batch, repeats, channels, layers) < 1 or batch < 2 or not timesteps:
        raise ConfigError(
            "batch norm needs a batch of 2 or more, and repeats, channels and layers are at least 1, got "
            f"batch {batch}, repeats {repeats}, channels {channels}, layers {layers}"
        )
    for t in timesteps:
        check_timesteps(t, layers)
    out = Path(out)
    make_folder(out)
    torch.manual_seed(0)
    progress("rates of the machine")
    rates = machine_rates(chosen)
    steps = [
        _search_step(
            StepSize(max(2, batch * timesteps[0] // t), t, layers, channels, device=str(chosen)),
            repeats,
            rates,
            progress,
        )
        for t in timesteps
    ]
    result = {
        "machine": {"device": _device_name(chosen), "threads": torch.get_num_threads(), **rates, **environment()},
        "search_step": steps[0],
        "search_step_by_timesteps": steps,
        "fixed_network": measure_fixed_network(repeats, chosen, progress),
        "extraction": measure_extraction(repeats, chosen, progress),
        "filters": measured_filters(),
    }
    write_json(out / SPEED_FILE, result)
    write_table(out, "table", COLUMNS, speed_rows(result), caption=_caption(result))
    return result


def speed_rows(result: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of the table of what :func:`measure_speed` returns."""
    rows = []
    for step in result["search_step_by_timesteps"]:
        rows += _rows(f"search step, T = {step['size']['timesteps']}, batch {step['size']['batch']}", step)
    for name, title in (("forward", "fixed network, forward"), ("training", "fixed network, training step")):
        rows += _rows(title, result["fixed_network"][name])
    return rows + _rows("I3D, a superframe", result["extraction"])


def to_markdown(result: dict[str, Any]) -> str:
    """Return the table of what :func:`measure_speed` returns."""
    return f"{_caption(result)}\n\n{markdown(COLUMNS, speed_rows(result))}"


def _rows(what: str, measured: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {
            "what": what,
            "ours_s": measured["ours"]["median_s"],
            "other": _TITLES[other],
            "other_s": measured[other]["median_s"],
            "ratio": ratio["median"],
            "spread": f"{ratio['min']:.2f} to {ratio['max']:.2f}",
        }
        for other, ratio in measured["ratios"].items()
    ]


def _caption(result: dict[str, Any]) -> str:
    machine, step = result["machine"], result["search_step"]
    return (
        f"{machine['device']}, {machine['threads']} threads, float32. Medians of {step['ours']['repeats']} rounds, "
        f"measured in turns. A search step takes {100 * step['memory_ratio_vs_stock_nni']:.0f} % of the memory that "
        f"stock NNI's takes; it reaches {100 * step['product_fraction']:.0f} % of the rate of a large matrix product "
        f"and touches bytes at {100 * step['copy_fraction']:.0f} % of the rate of a large copy."
    )


def _search_step(size: StepSize, repeats: int, rates: dict[str, float], progress: Progress) -> dict[str, Any]:
    where = f"search step, T = {size.timesteps}, batch {size.batch}"
    memory: dict[str, list[int]] = {
        name: [] for name in STEPS if name != "bfloat16" or has_bfloat16(torch.device(size.device))
    }

    def take(name: str) -> float:
        first, seconds = measure_step(name, size)
        memory[name].append(first)
        return seconds

    turns = {name: partial(take, name) for name in memory}
    compared = compare(turns, repeats, lambda name: progress(f"{where}: {name}"), warm_up=False)
    taken = {name: statistics.median(values) for name, values in memory.items()}
    progress(f"{where}: counting")
    counted = count(STEPS["ours"](size))
    seconds = compared["ours"]["median_s"]
    return {
        "size": asdict(size),
        **compared,
        "seconds_per_superframe": seconds / (size.batch * size.timesteps),
        "speedup_vs_stock_nni": compared["stock_nni"]["median_s"] / seconds,
        "memory_bytes": taken,
        "memory_ratio_vs_stock_nni": taken["ours"] / taken["stock_nni"],
        "memory_ratio_vs_published_darts": taken["ours"] / taken["published_darts"],
        "counted_operations": counted.operations,
        "counted_bytes": counted.bytes,
        "product_fraction": counted.operations / seconds / rates["product_flops"],
        "copy_fraction": counted.bytes / seconds / rates["copy_bytes"],
    }


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else 'CPU'}, {os.cpu_count()} cores"
