"""Compare the Triton filters with the library's, on a GPU or in Triton's interpreter: run by test_filters.py."""

from __future__ import annotations

import itertools
import os

import torch

from nni_nastc.search import convolutions, triton_filters
from nni_nastc.search.filters import Filter, Input, LibraryFilters
from nni_nastc.search.norms import Statistics
from nni_nastc.search.states import Scratch
from nni_nastc.search.triton_filters import TritonFilters
from tests.search.test_supernet import assert_same, features, pair, run

DEVICE = "cpu" if "TRITON_INTERPRET" in os.environ else "cuda"
VIDEOS, PLACES = 3, 5
KINDS = ((3, 1), (5, 1), (7, 1), (3, 2), (5, 2))


def check(
    steps: int,
    channels: int,
    kinds: tuple[tuple[int, int], ...],
    normalised: bool,
    dtype: torch.dtype = torch.float32,
) -> float:
    """Return the largest relative difference in outputs and gradients."""
    rows = VIDEOS * steps * PLACES
    matrix = torch.randn(rows, channels, device=DEVICE)
    # Shifts far from zero: what lies beyond a video's ends must not be taken for a normalised zero.
    statistics = Statistics(
        torch.randn(channels, device=DEVICE) - 3, torch.rand(channels, device=DEVICE) + 0.5, of_batch=True
    )
    given = Input(matrix, statistics if normalised else None, steps, PLACES, dtype)
    filters = [
        Filter(torch.randn(channels, 1, size, 1, device=DEVICE, dtype=dtype), dilation) for size, dilation in kinds
    ]
    upper = torch.randn(len(kinds), rows, channels, device=DEVICE, dtype=dtype)
    ours, library = TritonFilters(), LibraryFilters(Scratch())
    pairs = list(zip(ours.forward(given, filters), library.forward(given, filters), strict=True))
    seen = {}
    found = []
    for bank in (ours, library):
        seen[bank] = []

        def tell(number, filtered, into=seen[bank]):
            into.append(filtered)
            return upper[number]

        found.append(bank.backward(given, filters, tell, for_matrix=True, for_kernels=True))
    pairs += zip(seen[ours], seen[library], strict=True)
    pairs.append((found[0].matrix, found[1].matrix))
    pairs += zip(found[0].kernels, found[1].kernels, strict=True)
    nothing = ours.backward(given, filters, lambda n, filtered: upper[n], for_matrix=False, for_kernels=False)
    assert nothing.matrix is None
    assert nothing.kernels == [None] * len(kinds)
    assert all(a.shape == b.shape and a.dtype == b.dtype for a, b in pairs)
    return max(((a.float() - b.float()).norm() / b.float().norm()).item() for a, b in pairs)


def check_not_a_number() -> None:
    """What diverges stays visible, at the same places."""
    matrix = torch.randn(VIDEOS * 4 * PLACES, 16, device=DEVICE)
    matrix[2, 3] = float("nan")
    given = Input(matrix, None, 4, PLACES, torch.float32)
    filters = [Filter(torch.randn(16, 1, 3, 1, device=DEVICE), 1)]
    for bank in (TritonFilters(), LibraryFilters(Scratch())):
        (filtered,) = bank.forward(given, filters)
        assert filtered.isnan().sum() == 3 - 1, "the first step has one neighbour"


def check_supernet() -> None:
    """Compare a supernet with Triton's filters with NNI's."""
    convolutions.filter_bank = lambda device, scratch: TritonFilters()
    theirs, ours = (model.to(DEVICE) for model in pair(torch.float32, num_layers=1))
    x = features(torch.float32, size=1).to(DEVICE)
    assert_same(run(ours, x), run(theirs, x), 1e-4)


if __name__ == "__main__":
    torch.manual_seed(0)
    for steps, channels, normalised in itertools.product((2, 8), (16, 48), (False, True)):
        kinds = KINDS[2:4] if normalised and steps == 8 else KINDS
        difference = check(steps, channels, kinds, normalised)
        print(f"T {steps}, C {channels}, normalised {normalised}: {difference:.1e}")
        assert difference < 1e-5, difference
    for programs, steps in itertools.product((3, 1024), (1, 7, 9)):
        triton_filters.PROGRAMS = programs  # few: each adds up several blocks of rows
        difference = check(steps, 16, KINDS, normalised=True)
        assert difference < 1e-5, (programs, steps, difference)
    difference = check(9, 16, KINDS, normalised=True, dtype=torch.bfloat16)
    assert difference < 0.02, difference
    check_not_a_number()
    check_supernet()
    print("the supernet is NNI's")
