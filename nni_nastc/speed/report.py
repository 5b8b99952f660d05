"""The search step, the fixed network and the extraction, each beside a named alternative, as a table and JSON."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nni_nastc.bench.parameters import PUBLISHED_SIZE
from nni_nastc.bench.tables import Column, markdown, write_table
from nni_nastc.devices import choose_device, timed
from nni_nastc.errors import ConfigError
from nni_nastc.features.i3d import I3D, ConvUnit
from nni_nastc.files import make_folder, write_json
from nni_nastc.models import NetworkSpec, build_model
from nni_nastc.nn.network import check_timesteps
from nni_nastc.runs import environment
from nni_nastc.speed.counting import count
from nni_nastc.speed.measure import in_turns, summary
from nni_nastc.speed.rates import machine_rates
from nni_nastc.speed.search_step import STEPS, StepSize, step_memory

Progress = Callable[[str], None]

SPEED_FILE = "speed.json"
FIXED_LAYERS, FIXED_TIMESTEPS = 4, 128
CLIP_PIXELS = 224
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
        "fixed_network": _fixed_network(repeats, chosen, progress),
        "extraction": _extraction(repeats, chosen, progress),
    }
    write_json(out / SPEED_FILE, result)
    write_table(out, "table", COLUMNS, speed_rows(result), caption=_caption(result))
    return result


def speed_rows(result: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of the table of what :func:`measure_speed` returns."""
    rows = []
    for step in result["search_step_by_timesteps"]:
        what = f"search step, T = {step['size']['timesteps']}, batch {step['size']['batch']}"
        rows += [_row(what, step, other) for other in ("stock_nni", "published_darts")]
    for name, title in (("forward", "fixed network, forward"), ("training", "fixed network, training step")):
        rows.append(_row(title, result["fixed_network"][name], "timeception"))
    rows += [_row("I3D, a superframe", result["extraction"], other) for other in ("plain", "unfolded")]
    return rows


def to_markdown(result: dict[str, Any]) -> str:
    """Return the table of what :func:`measure_speed` returns."""
    return f"{_caption(result)}\n\n{markdown(COLUMNS, speed_rows(result))}"


def _row(what: str, measured: dict[str, Any], other: str) -> dict[str, Any]:
    ratios = measured["ratios"][other]
    return {
        "what": what,
        "ours_s": measured["ours"]["median_s"],
        "other": other.replace("_", " "),
        "other_s": measured[other]["median_s"],
        "ratio": ratios["median"],
        "spread": f"{ratios['min']:.2f} to {ratios['max']:.2f}",
    }


def _caption(result: dict[str, Any]) -> str:
    machine, step = result["machine"], result["search_step"]
    return (
        f"{machine['device']}, {machine['threads']} threads, float32. Medians of {step['ours']['repeats']} rounds, "
        f"measured in turns. A search step takes {100 * step['memory_ratio_vs_stock_nni']:.0f} % of the memory that "
        f"stock NNI's takes; it reaches {100 * step['product_fraction']:.0f} % of the rate of a large matrix product "
        f"and touches bytes at {100 * step['copy_fraction']:.0f} % of the rate of a large copy."
    )


def _compare(times: dict[str, list[float]], per: int = 1) -> dict[str, Any]:
    """Return the summary of each, in seconds of one of ``per``, and by how much the others take longer than ours."""
    ratios = {
        name: sorted(theirs / ours for theirs, ours in zip(seconds, times["ours"], strict=True))
        for name, seconds in times.items()
        if name != "ours"
    }
    return {
        **{name: summary([s / per for s in seconds]) for name, seconds in times.items()},
        "ratios": {
            name: {"median": summary(values)["median_s"], "min": values[0], "max": values[-1]}
            for name, values in ratios.items()
        },
    }


def _search_step(size: StepSize, repeats: int, rates: dict[str, float], progress: Progress) -> dict[str, Any]:
    where = f"search step, T = {size.timesteps}, batch {size.batch}"
    memory = {}
    for name in ("ours", "stock_nni"):
        progress(f"{where}: memory of {name}")
        memory[name] = step_memory(name, size)
    steps = {name: make(size) for name, make in STEPS.items()}
    compared = _compare(in_turns(steps, repeats, partial(_tell, progress, where)))
    progress(f"{where}: counting")
    counted = count(steps["ours"])
    seconds = compared["ours"]["median_s"]
    return {
        "size": asdict(size),
        **compared,
        "speedup_vs_stock_nni": compared["stock_nni"]["median_s"] / seconds,
        "memory_bytes": memory,
        "memory_ratio_vs_stock_nni": memory["ours"] / memory["stock_nni"],
        "counted_operations": counted.operations,
        "counted_bytes": counted.bytes,
        "product_fraction": counted.operations / seconds / rates["product_flops"],
        "copy_fraction": counted.bytes / seconds / rates["copy_bytes"],
    }


def _fixed_network(repeats: int, device: torch.device, progress: Progress) -> dict[str, Any]:
    """NAS-TC with six pointwise convolutions beside Timeception, on one video and in a training step of two."""
    networks = {
        name: build_model(NetworkSpec(network, 157, 1024, FIXED_LAYERS)).to(device)
        for name, network in (("ours", PUBLISHED_SIZE), ("timeception", "timeception"))
    }
    videos = torch.rand(2, 1024, FIXED_TIMESTEPS, 7, 7, device=device)

    def forward(network: nn.Module) -> None:
        with torch.inference_mode():
            network.eval()(videos[:1])

    def training(network: nn.Module) -> None:
        network.train().zero_grad()
        network(videos).square().mean().backward()

    result: dict[str, Any] = {"layers": FIXED_LAYERS, "timesteps": FIXED_TIMESTEPS}
    for name, work in (("forward", forward), ("training", training)):
        turns = {key: timed(partial(work, network), device) for key, network in networks.items()}
        result[name] = _compare(in_turns(turns, repeats, partial(_tell, progress, f"fixed network, {name}")))
    return result


def _tell(progress: Progress, where: str, name: str) -> None:
    progress(f"{where}: {name}")


class _PlainUnit(nn.Module):
    """I3D's unit without its kernels: PyTorch's own convolution and memory format, then batch norm, then ReLU."""

    def __init__(self, unit: ConvUnit) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv3d(**_arguments(unit.conv)), unit.bn
        self.conv.weight = nn.Parameter(unit.conv.weight.detach().clone(memory_format=torch.contiguous_format))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.bn(self.conv(x.contiguous())))


def _arguments(conv: nn.Conv3d) -> dict[str, Any]:
    kernel = conv.kernel_size
    return {
        "in_channels": conv.in_channels,
        "out_channels": conv.out_channels,
        "kernel_size": kernel,
        "stride": conv.stride,
        "padding": tuple(k // 2 for k in kernel),
        "bias": False,
    }


def plain_i3d(model: I3D) -> I3D:
    """Turn an I3D into what a straightforward module computes; equal padding on both sides, which costs the same."""
    for parent in [module for module in model.modules() if not isinstance(module, _PlainUnit)]:
        for name, child in list(parent.named_children()):
            if isinstance(child, ConvUnit):
                setattr(parent, name, _PlainUnit(child))
    return model


def _extraction(repeats: int, device: torch.device, progress: Progress) -> dict[str, Any]:
    superframes = 4
    clip = torch.rand(superframes, 3, 8, CLIP_PIXELS, CLIP_PIXELS, device=device) * 2 - 1
    models = {"ours": I3D().eval().folded(), "unfolded": I3D().eval(), "plain": plain_i3d(I3D()).eval()}

    def run(model: I3D) -> None:
        with torch.inference_mode():
            model.features(clip)

    turns = {name: timed(partial(run, model.to(device)), device) for name, model in models.items()}
    compared = _compare(in_turns(turns, repeats, partial(_tell, progress, "I3D")), per=superframes)
    return {"pixels": CLIP_PIXELS, "superframes_per_s": 1 / compared["ours"]["median_s"], **compared}


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else 'CPU'}, {os.cpu_count()} cores"
