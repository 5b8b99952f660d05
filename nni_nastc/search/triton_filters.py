"""Filters on a GPU: all that read the same matrix in one kernel each way, which reads it once.

PyTorch's library has a kernel for one depthwise convolution at a time, which reads the input anew, and needs the ReLU
and the norm in front of it written to memory. Here ``relu(x * scale + shift)`` is computed on the way in, forward and
backward, and never stored. Sums over rows are added up in a fixed order, so that results repeat.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from subprocess import CalledProcessError
from typing import Any

import torch
import torch.nn.functional as F
import triton
from torch import Tensor
from triton.errors import TritonError

from nni_nastc.errors import first_line
from nni_nastc.search.filters import Filter, Gradients, Input, Upper
from nni_nastc.search.triton_kernels import filter_forward, filter_input_gradient, filter_kernel_gradient

BLOCK_ROWS = 32
MAX_TAPS = 8
"""A power of two that is no less than the longest kernel, 7."""

PROGRAMS = 1024
"""That add up the gradients of kernels, about eight to a multiprocessor of a large GPU (our choice, not measured)."""


class TritonFilters:
    """Filters that read the same in one kernel, forward, and back to the input and to the kernels."""

    def forward(self, given: Input, filters: Sequence[Filter]) -> Iterable[Tensor]:
        """Return what each filter makes of the input, (M, C)."""
        return _filter(given, len(filters), _arguments(given, filters))

    def backward(
        self, given: Input, filters: Sequence[Filter], upper: Upper, *, for_matrix: bool, for_kernels: bool
    ) -> Gradients:
        """Return the gradients, where ``upper`` tells those of what the filters make of the input."""
        arguments = _arguments(given, filters)
        rows, channels = given.matrix.shape
        filtered = _filter(given, len(filters), arguments) if for_kernels else [None] * len(filters)
        gradients = given.matrix.new_empty((len(filters), rows, channels), dtype=given.dtype)
        for number, one in enumerate(filtered):
            gradients[number] = upper(number, one)
        matrix: Tensor | None = None
        kernels: list[Tensor | None] = [None] * len(filters)
        if for_matrix:
            matrix = torch.empty_like(given.matrix, dtype=given.dtype)
            filter_input_gradient[(triton.cdiv(rows, BLOCK_ROWS),)](
                *arguments.input, arguments.taps, *arguments.kinds, gradients, matrix, *arguments.sizes,
                **arguments.constants,
            )  # fmt: skip
        if for_kernels:
            blocks = triton.cdiv(rows, BLOCK_ROWS)
            shares = min(blocks, max(1, PROGRAMS // len(filters)))
            partial = gradients.new_empty((shares, len(filters), MAX_TAPS, channels), dtype=torch.float32)
            filter_kernel_gradient[(shares, len(filters))](
                *arguments.input, *arguments.kinds, gradients, partial, *arguments.sizes,
                triton.cdiv(blocks, shares), **arguments.constants,
            )  # fmt: skip
            found = partial.sum(dim=0)
            for number, each in enumerate(filters):
                size = each.kernel.shape[2]
                kernels[number] = found[number, :size].t().to(given.dtype).reshape(each.kernel.shape)
        return Gradients(matrix, kernels)


@cache
def triton_problem(device: torch.device) -> str:
    """Return why Triton does not work on a device, for want of a C compiler for instance; nothing if it does."""
    given = Input(torch.ones(4, 16, device=device), None, 2, 2, torch.float32)
    try:
        TritonFilters().forward(given, [Filter(torch.ones(16, 1, 3, 1, device=device), 1)])
    except (RuntimeError, OSError, CalledProcessError, TritonError) as problem:
        return first_line(problem)
    return ""


@dataclass(frozen=True)
class _Arguments:
    """What all kernels take: the input, the taps, sizes and dilations, the numbers, and what is compiled in."""

    input: tuple[Tensor, Tensor, Tensor]
    taps: Tensor
    kinds: tuple[Tensor, Tensor]
    sizes: tuple[int, ...]
    constants: dict[str, Any]


def _filter(given: Input, number: int, arguments: _Arguments) -> Sequence[Tensor]:
    rows, channels = given.matrix.shape
    filtered = given.matrix.new_empty((number, rows, channels), dtype=given.dtype)
    filter_forward[(triton.cdiv(rows, BLOCK_ROWS),)](
        *arguments.input, arguments.taps, *arguments.kinds, filtered, *arguments.sizes, **arguments.constants
    )
    return filtered.unbind()


def _arguments(given: Input, filters: Sequence[Filter]) -> _Arguments:
    matrix, statistics = given.matrix, given.statistics
    rows, channels = matrix.shape
    scale = shift = matrix  # not read
    if statistics is not None:
        scale, shift = statistics.scale, -statistics.mean * statistics.scale
    by_tap = [each.kernel.flatten(1).t() for each in filters]
    return _Arguments(
        input=(matrix, scale, shift),
        taps=torch.stack([F.pad(taps, (0, 0, 0, MAX_TAPS - len(taps))) for taps in by_tap]),
        kinds=_kinds(tuple((each.kernel.shape[2], each.dilation) for each in filters), matrix.device),
        sizes=(rows, len(filters), given.steps, given.places),
        constants={
            "NORMALISED": statistics is not None,
            "CHANNELS": channels,
            "MAX_TAPS": MAX_TAPS,
            "ROWS": BLOCK_ROWS,
            "COLUMNS": triton.next_power_of_2(channels),
        },
    )


@cache
def _kinds(kinds: tuple[tuple[int, int], ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """Return sizes and dilations on the device, to which they are sent once."""
    sizes, dilations = zip(*kinds, strict=True)
    return (
        torch.tensor(sizes, dtype=torch.int32, device=device),
        torch.tensor(dilations, dtype=torch.int32, device=device),
    )
