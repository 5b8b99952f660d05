"""The processes of one distributed run: which one this is, and what they tell one another.

A run has one process unless Lightning, torchrun or SLURM started several; then each does a share of the work.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import nn

from nni_nastc.errors import ConfigError

Value = TypeVar("Value")

_RANK_VARIABLES = ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID")


def place() -> tuple[int, int]:
    """Return the number of this process, and of all processes that have met; (0, 1) where none have."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def is_main() -> bool:
    """Tell whether this is the process that writes files: the only one, or number 0.

    Before the processes have met, the environment tells, as torchrun, Lightning and SLURM set it.
    """
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank() == 0
    return all(os.environ.get(name, "0") == "0" for name in _RANK_VARIABLES)


def only_main_warns() -> None:
    """Keep from the terminal what this package tells in other processes than the main one, which tells the same."""
    if not is_main():
        logging.getLogger("nni_nastc").setLevel(logging.ERROR)


@contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Let the processes that torchrun started meet for the block; nothing happens in a process started alone.

    Parameters
    ----------
    device : torch.device
        Where this process computes: GPUs talk by NCCL, CPUs by Gloo.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or "RANK" not in os.environ or dist.is_initialized():
        yield
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def part() -> None:
    """Let the processes of a run part, if several have met: what joins them must not outlive the interpreter."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def check_processes(
    devices: int | str,
    num_nodes: int,
    devices_name: str = "trainer.devices",
    nodes_name: str = "trainer.num_nodes",
) -> None:
    """Refuse a run that torchrun or SLURM started with another number of processes than it is configured for.

    Each of them would take itself for the only one; and a run on several machines that nobody started on the others
    would wait for them for ever.

    Parameters
    ----------
    devices : int or str
        Of each machine; "auto" for as many as were started.
    num_nodes : int
        Machines.
    devices_name, nodes_name : str
        What the two are called where they are set.

    Raises
    ------
    ConfigError
        With the numbers.
    """
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ:
        starter, started = "torchrun", int(os.environ["WORLD_SIZE"])
    elif int(tasks := os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
        starter, started = "SLURM", int(tasks)
    elif num_nodes > 1 and "MASTER_ADDR" not in os.environ:
        raise ConfigError(
            f"{nodes_name} = {num_nodes}, but this process was started alone; start it with torchrun on each, or "
            f"with SLURM's srun, or set {nodes_name} to 1"
        )
    else:
        return
    if devices != "auto" and started != int(devices) * num_nodes:
        raise ConfigError(
            f"{starter} started {started} processes, the configuration has {devices_name} = {devices} on "
            f"{nodes_name} = {num_nodes}; set them to what was started"
        )


def gather(value: Value) -> list[Value]:
    """Return the values of all processes, in the order of their numbers, in every process.

    Parameters
    ----------
    value : Any
        That can be pickled.
    """
    _, world = place()
    if world == 1:
        return [value]
    values: list[Value | None] = [None] * world
    dist.all_gather_object(values, value)
    return values  # type: ignore[return-value]


def share_buffers(module: nn.Module) -> None:
    """Give every process the buffers of process 0: batch norm's statistics, which training leaves different."""
    if place()[1] > 1:
        for buffer in module.buffers():
            dist.broadcast(buffer, src=0)
