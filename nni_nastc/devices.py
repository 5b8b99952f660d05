"""Where networks run."""

from __future__ import annotations

import ctypes
import os
import re
import time
from collections.abc import Callable
from typing import Any

import torch

from nni_nastc.errors import ModelError

# Of mallopt, in glibc's malloc.h; the largest values that it takes.
_TRIM_THRESHOLD, _TRIM_BYTES = -1, 2**31 - 1
_MMAP_THRESHOLD, _MMAP_BYTES = -3, 32 * 2**20


def keep_freed_memory() -> None:
    """Let this process keep up to 2 GB of freed memory for its next tensors.

    glibc gives large blocks back to the system as soon as they are freed. A training on a CPU then waits in every step
    for the same pages to be handed out and cleared again, which took about a tenth of a search step. Without glibc
    nothing happens.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, _MMAP_BYTES)
        mallopt(_TRIM_THRESHOLD, _TRIM_BYTES)


def choose_device(name: str) -> torch.device:
    """Return the device of a name; "auto" is the first GPU, or the CPU where there is none.

    Raises
    ------
    ModelError
        If the name is no device, or a GPU is asked for that is not there.
    """
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", name):
        raise ModelError(f"a device is auto, cpu, cuda or cuda:NUMBER, got {name!r}; use one of them")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ModelError(
            f"no such GPU: {name}; this machine has {torch.cuda.device_count()}; use --device cpu or another number"
        )
    return device


def check_trainer(
    accelerator: str,
    devices: int | str,
    precision: str,
    devices_name: str = "trainer.devices",
    accelerator_name: str = "trainer.accelerator",
    *,
    sync_batchnorm: bool = False,
) -> None:
    """Refuse what this machine cannot train on, before Lightning tries.

    Parameters
    ----------
    accelerator : str
        "auto", "cpu" or "gpu".
    devices : int or str
        How many; "auto" for all.
    precision : str
        As Lightning calls it.
    devices_name, accelerator_name : str
        What the two are called where they are set.
    sync_batchnorm : bool
        Whether batch norms work over all devices.

    Raises
    ------
    ModelError
        If there are not as many devices, or they lack the precision.
    """
    gpus = 0 if accelerator == "cpu" else torch.cuda.device_count()
    if accelerator == "gpu" and not gpus:
        raise ModelError(
            f"{accelerator_name} asks for a GPU, PyTorch can use none on this machine; set it to cpu or auto"
        )
    there = gpus or os.cpu_count() or 1
    if devices != "auto" and int(devices) > there:
        kind = "GPUs" if gpus else "CPU cores"
        raise ModelError(f"{devices_name} is {devices}, this machine has {there} {kind}; set it to {there} or less")
    if sync_batchnorm and not gpus:
        raise ModelError("trainer.sync_batchnorm is true, PyTorch has it on GPUs only; set it to false")
    if precision == "16-mixed" and not gpus:
        raise ModelError("trainer.precision is 16-mixed, which needs a GPU; set it to 32-true or bf16-mixed")


def local_device(accelerator: str) -> torch.device:
    """Return the device that Lightning will give this process: one of the node's GPUs, unless ``cpu`` is asked for.

    The number of the process on its node comes from the environment, as torchrun, Lightning and SLURM set it.
    """
    if accelerator == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", 0))))


def has_bfloat16(device: torch.device) -> bool:
    """Return whether a device computes with bfloat16: GPUs from NVIDIA's Ampere on, and CPUs with AVX-512 or the like.

    PyTorch emulates it on the others, where it took 37 times as long as float32 (I3D on a CPU with AVX2).
    """
    if device.type == "cuda":
        return torch.version.hip is not None or torch.cuda.get_device_capability(device) >= (8, 0)
    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def hardware_name(device: torch.device) -> str:
    """Return what a GPU is called, or that it is the CPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "this CPU"


def timed(function: Callable[[], Any], device: torch.device) -> Callable[[], float]:
    """Return what calls a function and tells how many seconds it took, the device's work included."""

    def measure() -> float:
        synchronise(device)
        start = time.perf_counter()
        function()
        synchronise(device)
        return time.perf_counter() - start

    return measure


def synchronise(device: torch.device) -> None:
    """Wait until a device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
