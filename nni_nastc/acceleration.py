"""Faster ways to train that not every machine has: said in one line where they are missing, and left out."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from nni_nastc.devices import hardware_name, has_bfloat16
from nni_nastc.errors import first_line

_logger = logging.getLogger(__name__)


def usable_precision(precision: str, device: torch.device) -> str:
    """Return a precision that a device has: the one that is asked for, or full precision in place of bfloat16.

    Parameters
    ----------
    precision : str
        As Lightning calls it.
    device : torch.device
        Where the network trains.
    """
    if precision == "bf16-mixed" and not has_bfloat16(device):
        _logger.warning(
            "trainer.precision is bf16-mixed, which %s does not have; training with 32-true", hardware_name(device)
        )
        return "32-true"
    return precision


@contextmanager
def kernels_as_before() -> Iterator[None]:
    """Put PyTorch's choice of deterministic kernels back after a block or a function, in which Lightning changes it."""
    mode = torch.get_deterministic_debug_mode()
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(mode)


def compile_network(network: nn.Module, device: torch.device) -> None:
    """Let ``torch.compile`` compile a network when it is first used, in place; names of weights stay.

    Where compiling does not work, for want of a compiler for instance, the network stays as it is, and a line says so.

    Parameters
    ----------
    network : Module
        The network.
    device : torch.device
        Where it will run.
    """
    if reason := compiler_problem(device):
        _logger.warning("trainer.compile is true, but torch.compile does not work here (%s); going on without", reason)
    else:
        network.compile()


def compiler_problem(device: torch.device) -> str:
    """Return why ``torch.compile`` does not work for a device; nothing if it does."""
    try:
        torch.compile(_probe)(torch.ones(8, device=device))
    except (RuntimeError, OSError, ImportError) as problem:
        return first_line(problem)
    return ""


def _probe(x: torch.Tensor) -> torch.Tensor:
    return x.sin() + 1
