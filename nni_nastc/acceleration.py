"""Faster ways to train that not every machine has: said in one line where they are missing, and left out."""

from __future__ import annotations

import logging

import torch
from torch import nn

from nni_nastc.devices import hardware_name, has_bfloat16

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


def compile_network(network: nn.Module, device: torch.device) -> bool:
    """Let ``torch.compile`` compile a network when it is first used, in place; names of weights stay.

    Parameters
    ----------
    network : Module
        The network.
    device : torch.device
        Where it will run.

    Returns
    -------
    bool
        False where compiling does not work, for want of a compiler for instance; the network stays as it is.
    """
    if reason := compiler_problem(device):
        _logger.warning("trainer.compile is true, but torch.compile does not work here (%s); going on without", reason)
        return False
    network.compile()
    return True


def compiler_problem(device: torch.device) -> str:
    """Return why ``torch.compile`` does not work for a device; nothing if it does."""
    try:
        torch.compile(_probe)(torch.ones(8, device=device))
    except (RuntimeError, OSError, ImportError) as problem:
        return next((line.strip() for line in str(problem).splitlines() if line.strip()), type(problem).__name__)
    return ""


def _probe(x: torch.Tensor) -> torch.Tensor:
    return x.sin() + 1
