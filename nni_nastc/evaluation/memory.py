"""What a training step keeps in memory, counted without taking any, and the message when there is too little."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy

import psutil
import torch
from torch import Tensor, nn

from nni_nastc.errors import ModelError

SHARE = 0.7
"""Of all memory, what a step may keep by our count; the backward pass takes about a third of that besides."""


def step_bytes(network: nn.Module, shape: tuple[int, ...]) -> int:
    """Count what a forward pass keeps for the backward pass, its input included.

    Parameters
    ----------
    network : Module
        It is copied without its values, and not run.
    shape : tuple of int
        (B, C, T, H, W) of its input.

    Returns
    -------
    int
        Bytes, in float32. What the backward pass takes besides is not counted.
    """
    kept: dict[int, int] = {}
    storages: list[torch.UntypedStorage] = []  # kept alive, so that no two have the same address

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        storages.append(storage)
        kept[storage._cdata] = storage.nbytes()
        return tensor

    copy = deepcopy(network, _without_values(network)).train()
    features = torch.empty(shape, device="meta")
    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = copy(features)
    del output
    for known in (features, *copy.parameters(), *copy.buffers()):
        kept.pop(known.untyped_storage()._cdata, None)
    return sum(kept.values()) + features.nbytes


def _without_values(network: nn.Module) -> dict[int, Tensor]:
    """Return what a copy takes in place of each parameter and buffer, by its id: the shape alone."""
    return {
        **{id(p): nn.Parameter(torch.empty_like(p, device="meta"), p.requires_grad) for p in network.parameters()},
        **{id(buffer): torch.empty_like(buffer, device="meta") for buffer in network.buffers()},
    }


def largest_batch(network: nn.Module, shape: tuple[int, ...], device: torch.device) -> int:
    """Return how many videos fit in all the memory of a device by our count, 0 if not even two do.

    Parameters
    ----------
    network : Module
        What is trained.
    shape : tuple of int
        (C, T, H, W) of a video.
    device : torch.device
        Where.
    """
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
    else:
        total = psutil.virtual_memory().total
    two, four = (step_bytes(network, (batch, *shape)) for batch in (2, 4))
    each = (four - two) / 2
    fitting = int((SHARE * total - (two - 2 * each)) / each)
    return fitting if fitting >= 2 else 0


@contextmanager
def explained_memory(
    step: str, network: nn.Module, batch: int, shape: tuple[int, ...], device: torch.device
) -> Iterator[None]:
    """Turn an exhausted memory into a message that says what fits.

    Parameters
    ----------
    step : str
        What is going on, for the message.
    network, shape, device
        As for :func:`largest_batch`.
    batch : int
        Videos of a batch.

    Raises
    ------
    ModelError
        In place of PyTorch's error.
    """
    try:
        yield
    except RuntimeError as problem:
        if not isinstance(problem, torch.OutOfMemoryError) and "can't allocate memory" not in str(problem):
            raise
        fitting = min(largest_batch(network, shape, device), batch - 1)
        advice = f"data.batch_size={fitting}" if fitting > 1 else "fewer timesteps, or features pooled to smaller maps"
        raise ModelError(
            f"out of memory in a {step} with data.batch_size {batch} and T = {shape[1]}; "
            f"by our count of what it keeps, use {advice}"
        ) from problem
