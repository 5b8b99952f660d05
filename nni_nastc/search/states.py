"""The states of a supernet cell: where edges start, and where they end.

Matrices are (M, C) with M = B x T x S, a row a place and time. Images are the same memory as (B, C, T, S), channels
last. A slab is the rows of some of the images.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from nni_nastc.search.norms import Moments

SLAB_BYTES = 4 * 2**20
"""Of a slab on a CPU: the few that are at work stay in its cache, and calls are few (our choice, from measurements of
0.6 to 10 MB)."""


def as_matrix(image: Tensor) -> Tensor:
    """View (B, C, T, S), channels last, as (M, C)."""
    return image.permute(0, 2, 3, 1).reshape(-1, image.shape[1])


def as_image(matrix: Tensor, steps: int, places: int) -> Tensor:
    """View (M, C) as (B, C, T, S), channels last."""
    return matrix.view(-1, steps, places, matrix.shape[1]).permute(0, 3, 1, 2)


class Scratch:
    """Memory that is used again and again, and so stays in the processor's cache."""

    def __init__(self) -> None:
        self._buffers: dict[str, Tensor] = {}

    def __call__(self, name: str, like: Tensor) -> Tensor:
        """Return memory of the size and type of ``like`` (rows, C); it holds what was left there."""
        kept = self._buffers.get(name)
        if kept is None or len(kept) < len(like) or kept.dtype != like.dtype:
            kept = self._buffers[name] = torch.empty_like(like)
        return kept[: len(like)]


def slabs_of(image: Tensor) -> list[slice]:
    """Cut the rows of (B, C, T, S) into slabs of whole images: of :data:`SLAB_BYTES` on a CPU, one elsewhere."""
    batch, channels, steps, places = image.shape
    rows = steps * places
    size = batch if image.device.type != "cpu" else max(1, SLAB_BYTES // (rows * channels * image.element_size()))
    return [slice(first * rows, min(first + size, batch) * rows) for first in range(0, batch, size)]


class Source:
    """A state from which edges start: what they share, and the gradients that they send back.

    Parameters
    ----------
    matrix : Tensor of shape (M, C)
        The state.
    steps, places : int
        T and S.
    slabs : list of slice
        How the rows are cut.
    """

    def __init__(self, matrix: Tensor, steps: int, places: int, slabs: list[slice]) -> None:
        self.matrix = matrix
        self.steps = steps
        self.places = places
        self.slabs = slabs
        self._pools: dict[str, Pooled] = {}

    @cached_property
    def gradient(self) -> Tensor:
        """The gradient (M, C), to which all that is sent back is added, but through pools."""
        return torch.zeros_like(self.matrix)

    def pooled(self, kind: str) -> Pooled:
        """Return the state behind a pool of two steps."""
        if kind not in self._pools:
            self._pools[kind] = Pooled(kind, self.matrix, self.steps, self.places)
        return self._pools[kind]

    def whole_gradient(self) -> Tensor:
        """Return the gradient (M, C), that through pools included."""
        for pool in self._pools.values():
            pool.add_gradient(self.gradient)
        return self.gradient


class Pooled:
    """A state behind a pool of two steps that repeats the first one, and the gradients of it."""

    def __init__(self, kind: str, matrix: Tensor, steps: int, places: int) -> None:
        self.kind = kind
        channels = matrix.shape[1]
        self._steps = (-1, steps, places * channels)
        self._state = matrix.view(self._steps)
        self._gradient: Tensor | None = None
        before, now = self._state[:, :-1], self._state[:, 1:]
        pooled = self._state.clone()
        pooled[:, 1:] = torch.maximum(before, now) if kind == "max" else (before + now) / 2
        self.matrix = pooled.view(-1, channels)

    @cached_property
    def moments(self) -> Moments:
        """Mean and variance of every channel."""
        moments = Moments()
        moments.add(self.matrix)
        return moments

    def send_back(self, gradient: Tensor) -> None:
        """Add a gradient (M, C). The tensor is taken over."""
        if self._gradient is None:
            self._gradient = gradient
        else:
            self._gradient += gradient

    def add_gradient(self, total: Tensor) -> None:
        """Add the gradient of the state, of all that was sent back, to ``total`` (M, C)."""
        if self._gradient is None:
            return
        gradient, total = self._gradient.view(self._steps), total.view(self._steps)
        total[:, :1] += gradient[:, :1]
        if self.kind == "max":
            # Of equals the earlier one takes the gradient, as in PyTorch's max-pool.
            later = torch.where(self._state[:, 1:] > self._state[:, :-1], gradient[:, 1:], 0)
            total[:, 1:] += later
            total[:, :-1] += gradient[:, 1:] - later
        else:
            total[:, 1:].add_(gradient[:, 1:], alpha=0.5)
            total[:, :-1].add_(gradient[:, 1:], alpha=0.5)


@dataclass
class Node:
    """A node that is being added up: its value is ``matrix + shift``."""

    matrix: Tensor
    shift: Tensor

    def value(self) -> Tensor:
        """Return the finished sum (M, C)."""
        return self.matrix.add_(self.shift)
