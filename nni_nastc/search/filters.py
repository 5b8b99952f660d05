"""The depthwise convolutions over T of some operations that read the same matrix, and the gradients of these.

All read ``relu(x * scale + shift)``, the state behind its ReLU or a stage behind batch norm and ReLU, which exists only
while it is read. Matrices are (M, C), M = B x T x S, a row a place and time.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from nni_nastc.devices import timed
from nni_nastc.nn import depthwise
from nni_nastc.search.norms import Statistics
from nni_nastc.search.states import Scratch, as_image, as_matrix

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Filter:
    """A depthwise kernel (C, 1, k, 1), k odd, and its dilation."""

    kernel: Tensor
    dilation: int


@dataclass(frozen=True)
class Input:
    """What filters read: ``relu(matrix)``, or the same of the normalised matrix.

    Parameters
    ----------
    matrix : Tensor of shape (M, C)
        x.
    statistics : Statistics or None
        By which it is normalised.
    steps, places : int
        T and S.
    dtype : torch.dtype
        Of what is computed from it.
    """

    matrix: Tensor
    statistics: Statistics | None
    steps: int
    places: int
    dtype: torch.dtype


@dataclass(frozen=True)
class Gradients:
    """Of the input's matrix behind its norm (M, C), and of each kernel; None for what is not wanted."""

    matrix: Tensor | None
    kernels: list[Tensor | None]


Upper = Callable[[int, "Tensor | None"], Tensor]
"""Number of a filter, and what it makes of the input (M, C) if the kernels' gradients are wanted -> the gradient (M, C)
of that."""


class FilterBank(Protocol):
    """A way to compute filters."""

    def forward(self, given: Input, filters: Sequence[Filter]) -> Iterable[Tensor]:
        """Return what each filter makes of the input, (M, C)."""

    def backward(
        self, given: Input, filters: Sequence[Filter], upper: Upper, *, for_matrix: bool, for_kernels: bool
    ) -> Gradients:
        """Return the gradients, where ``upper`` tells those of what the filters make of the input."""


class LibraryFilters:
    """Filters one by one, with PyTorch's convolutions.

    Parameters
    ----------
    scratch : Scratch
        Memory for what exists only while it is read.
    """

    def __init__(self, scratch: Scratch) -> None:
        self._scratch = scratch

    def forward(self, given: Input, filters: Sequence[Filter]) -> Iterator[Tensor]:
        """Yield what each filter makes of the input, (M, C)."""
        image = self._image(given)
        for each in filters:
            yield as_matrix(depthwise.convolve(image, each.kernel, dilation=each.dilation))

    def backward(
        self, given: Input, filters: Sequence[Filter], upper: Upper, *, for_matrix: bool, for_kernels: bool
    ) -> Gradients:
        """Return the gradients, where ``upper`` tells those of what the filters make of the input, one by one."""
        image = self._image(given)
        total: Tensor | None = None
        kernels: list[Tensor | None] = [None] * len(filters)
        for number, each in enumerate(filters):
            kernel, dilation = each.kernel, each.dilation
            filtered = as_matrix(depthwise.convolve(image, kernel, dilation=dilation)) if for_kernels else None
            gradient = as_image(upper(number, filtered), given.steps, given.places)
            if for_kernels:
                kernels[number] = depthwise.kernel_gradient(gradient, image, kernel, dilation=dilation)
            if for_matrix:
                below = as_matrix(depthwise.input_gradient(gradient, kernel, dilation=dilation))
                total = below if total is None else total.add_(below)
        if total is not None:
            total = torch.ops.aten.threshold_backward(total, as_matrix(image), 0)
        return Gradients(total, kernels)

    def _image(self, given: Input) -> Tensor:
        """Return what the filters read, (B, C, T, S)."""
        matrix, statistics = given.matrix, given.statistics
        if statistics is None:
            read = torch.clamp_min(matrix, 0, out=self._scratch("state", matrix))
        else:
            read = statistics.normalise(matrix, out=self._scratch("hidden", matrix)).relu_()
        return as_image(read.to(given.dtype), given.steps, given.places)


class FasterFilters:
    """Whichever of several ways was the fastest when filters and an input of their sizes first came (our choice).

    Parameters
    ----------
    banks : sequence of FilterBank
        To choose from.
    """

    measured: ClassVar[dict[Any, dict[str, float]]] = {}
    """Sizes of filters and input -> name of a way -> its seconds, forward and back."""

    def __init__(self, banks: Sequence[FilterBank]) -> None:
        self._banks = {type(bank).__name__: bank for bank in banks}

    def forward(self, given: Input, filters: Sequence[Filter]) -> Iterable[Tensor]:
        """Return what each filter makes of the input, (M, C)."""
        return self._bank(given, filters).forward(given, filters)

    def backward(
        self, given: Input, filters: Sequence[Filter], upper: Upper, *, for_matrix: bool, for_kernels: bool
    ) -> Gradients:
        """Return the gradients, where ``upper`` tells those of what the filters make of the input."""
        bank = self._bank(given, filters)
        return bank.backward(given, filters, upper, for_matrix=for_matrix, for_kernels=for_kernels)

    def _bank(self, given: Input, filters: Sequence[Filter]) -> FilterBank:
        kinds = tuple((each.kernel.shape[2], each.dilation) for each in filters)
        size = (given.matrix.shape, given.matrix.device, given.dtype, given.steps, given.statistics is None, kinds)
        if size not in self.measured:
            self.measured[size] = {name: filter_seconds(bank, given, filters) for name, bank in self._banks.items()}
        return self._banks[min(self._banks, key=lambda name: self.measured[size][name])]


def measured_filters() -> list[dict[str, Any]]:
    """Return what was measured in this process to choose the faster ways, as JSON values; empty without a GPU.

    A way for which there was not enough memory took None.
    """
    return [
        {
            "rows": shape[0],
            "channels": shape[1],
            "dtype": str(dtype),
            "kernels_and_dilations": kinds,
            "seconds": {name: taken if math.isfinite(taken) else None for name, taken in seconds.items()},
        }
        for (shape, _, dtype, *_, kinds), seconds in FasterFilters.measured.items()
    ]


def filter_seconds(bank: FilterBank, given: Input, filters: Sequence[Filter], repeats: int = 3) -> float:
    """Measure a pass forward and one back, after one to warm up: the best of some, or infinity if memory is short."""
    gradient = given.matrix.to(given.dtype)

    def work() -> None:
        for _ in bank.forward(given, filters):
            pass
        bank.backward(given, filters, lambda number, filtered: gradient, for_matrix=True, for_kernels=True)

    try:
        work()
        return min(timed(work, given.matrix.device)() for _ in range(repeats))
    except torch.cuda.OutOfMemoryError:
        return math.inf


def filter_bank(device: torch.device, scratch: Scratch) -> FilterBank:
    """Return the way that is used on a device: on a GPU the faster one, by a measurement, of PyTorch's and Triton's.

    In deterministic mode it is PyTorch's, so that no measurement decides on the rounding.
    """
    library = LibraryFilters(scratch)
    if device.type != "cuda" or torch.are_deterministic_algorithms_enabled() or not _has_triton(device):
        return library
    from nni_nastc.search.triton_filters import TritonFilters

    return FasterFilters([library, TritonFilters()])


@cache
def _has_triton(device: torch.device) -> bool:
    """Return whether Triton is there and works, and say so if it is there but does not."""
    if find_spec("triton") is None:
        return False
    from nni_nastc.search.triton_filters import triton_problem

    if problem := triton_problem(device):
        _logger.warning("Triton does not work here (%s); searching with PyTorch's own kernels", problem)
    return not problem
