"""The states of a supernet cell: where edges start, and where they end.

Matrices are (M, C) with M = B x T x S, a row a place and time. Images are the same memory as (B, C, T, S), channels
last. A slab is the part of both that belongs to some of the images.
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


def as_image(matrix: Tensor, like: Tensor) -> Tensor:
    """View (M, C) as (B, C, T, S), channels last, of the size of ``like``."""
    batch, _, steps, places = like.shape
    return matrix.view(batch, steps, places, -1).permute(0, 3, 1, 2)


@dataclass(frozen=True)
class Slab:
    """Some of the images, and their rows of the matrix."""

    images: slice
    rows: slice


def slabs_of(image: Tensor) -> list[Slab]:
    """Cut (B, C, T, S) into slabs: of :data:`SLAB_BYTES` on a CPU, one elsewhere."""
    batch, channels, steps, places = image.shape
    rows = steps * places
    size = batch if image.device.type != "cpu" else max(1, SLAB_BYTES // (rows * channels * image.element_size()))
    bounds = [(first, min(first + size, batch)) for first in range(0, batch, size)]
    return [Slab(slice(first, last), slice(first * rows, last * rows)) for first, last in bounds]


class Source:
    """A state from which edges start: what they share, and the gradients that they send back.

    Parameters
    ----------
    image : Tensor of shape (B, C, T, S)
        The state, channels last.
    slabs : list of Slab
        How it is cut.
    """

    def __init__(self, image: Tensor, slabs: list[Slab]) -> None:
        self.image = image
        self.slabs = slabs
        self._pools: dict[str, Pooled] = {}

    @cached_property
    def matrix(self) -> Tensor:
        """The state (M, C)."""
        return as_matrix(self.image)

    @cached_property
    def gradient(self) -> Tensor:
        """The gradient (M, C), to which all that is sent back is added, but through pools."""
        return torch.zeros_like(self.matrix)

    def pooled(self, kind: str) -> Pooled:
        """Return the state behind a pool of two steps."""
        if kind not in self._pools:
            self._pools[kind] = Pooled(kind, self.image)
        return self._pools[kind]

    def whole_gradient(self) -> Tensor:
        """Return the gradient (M, C), that through pools included."""
        for pool in self._pools.values():
            pool.add_gradient(self.gradient)
        return self.gradient


class Pooled:
    """A state behind a pool of two steps that repeats the first one, and the gradients of it."""

    def __init__(self, kind: str, image: Tensor) -> None:
        self.kind = kind
        batch, channels, steps, places = image.shape
        self._steps = (batch, steps, places * channels)
        self._state = as_matrix(image).view(self._steps)
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
