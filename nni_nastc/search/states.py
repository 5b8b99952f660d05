"""The states of a supernet cell: where edges start, and where they end.

Matrices are (M, C) with M = B x T x S, a row a place and time. Images are the same memory as (B, C, T, S), channels
last.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


def as_matrix(image: Tensor) -> Tensor:
    """View (B, C, T, S), channels last, as (M, C)."""
    return image.permute(0, 2, 3, 1).reshape(-1, image.shape[1])


def as_image(matrix: Tensor, like: Tensor) -> Tensor:
    """View (M, C) as (B, C, T, S), channels last, of the size of ``like``."""
    batch, _, steps, places = like.shape
    return matrix.view(batch, steps, places, -1).permute(0, 3, 1, 2)


class Source:
    """A state from which edges start: what they share, and the gradients that they send back.

    Parameters
    ----------
    image : Tensor of shape (B, C, T, S)
        The state, channels last.
    """

    def __init__(self, image: Tensor) -> None:
        self.image = image
        self._pools: dict[str, Pooled] = {}
        self._direct: list[Tensor] = []
        self._rectified: list[Tensor] = []

    @cached_property
    def matrix(self) -> Tensor:
        """The state (M, C)."""
        return as_matrix(self.image)

    @cached_property
    def rectified(self) -> Tensor:
        """The state behind a ReLU (B, C, T, S)."""
        return self.image.relu()

    def pooled(self, kind: str) -> Pooled:
        """Return the state behind a pool of two steps."""
        if kind not in self._pools:
            self._pools[kind] = Pooled(kind, self.image)
        return self._pools[kind]

    def send_back(self, gradient: Tensor, weight: Tensor) -> None:
        """Add ``weight`` times a gradient (M, C) of the state."""
        if not self._direct:
            self._direct.append(torch.zeros_like(gradient))
        self._direct[0].addcmul_(gradient, weight)

    def send_back_rectified(self, gradient: Tensor) -> None:
        """Add a gradient (M, C) of the state behind its ReLU. The tensor is taken over."""
        if self._rectified:
            self._rectified[0].add_(gradient)
        else:
            self._rectified.append(gradient)

    def gradient(self) -> Tensor:
        """Return the sum (M, C) of all that was sent back."""
        total = self._direct[0] if self._direct else torch.zeros_like(self.matrix)
        for gradient in self._rectified:
            total += torch.ops.aten.threshold_backward(gradient, self.matrix, 0)
        for pool in self._pools.values():
            pool.add_gradient(total)
        return total


class Pooled:
    """A state behind a pool of two steps that repeats the first one, and the gradients of it."""

    def __init__(self, kind: str, image: Tensor) -> None:
        self.kind = kind
        batch, channels, steps, places = image.shape
        self._steps = (batch, steps, places * channels)
        self._state = as_matrix(image).view(self._steps)
        self._gradient: Tensor | None = None
        self._slope = image.new_zeros(channels)
        self._constant = image.new_zeros(channels)
        before, now = self._state[:, :-1], self._state[:, 1:]
        pooled = self._state.clone()
        pooled[:, 1:] = torch.maximum(before, now) if kind == "max" else (before + now) / 2
        self.matrix = pooled.view(-1, channels)

    @cached_property
    def statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and biased variance of every channel, each (C,)."""
        mean = self.matrix.mean(dim=0)
        return mean, (self.matrix - mean).square_().mean(dim=0)

    def send_back(self, gradient: Tensor, factor: Tensor, slope: Tensor | None, constant: Tensor | None) -> None:
        """Add the gradient ``factor * gradient - slope * pooled + constant``, all but the first (C,)."""
        if self._gradient is None:
            self._gradient = torch.zeros_like(gradient)
        self._gradient.addcmul_(gradient, factor)
        if slope is not None and constant is not None:
            self._slope += slope
            self._constant += constant

    def add_gradient(self, total: Tensor) -> None:
        """Add the gradient of the state, of all that was sent back, to ``total`` (M, C)."""
        if self._gradient is None:
            return
        gradient = self._gradient.addcmul_(self.matrix, self._slope, value=-1).add_(self._constant).view(self._steps)
        total = total.view(self._steps)
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


@dataclass(frozen=True)
class NodeGradient:
    """The gradient of a node (M, C), and its sum over the rows (C,)."""

    matrix: Tensor
    sum: Tensor
