"""Compare the Triton filters with the library's, on a CPU with Triton's interpreter: run by test_triton_filters.py."""

from __future__ import annotations

import itertools

import torch

from nni_nastc.search import convolutions
from nni_nastc.search.filters import Filter, Input, LibraryFilters
from nni_nastc.search.norms import Statistics
from nni_nastc.search.states import Scratch
from nni_nastc.search.triton_filters import TritonFilters
from tests.search.test_supernet import assert_same, features, pair, run

VIDEOS, PLACES = 3, 5
KINDS = ((3, 1), (5, 1), (7, 1), (3, 2), (5, 2))


def check(steps: int, channels: int, kinds: tuple[tuple[int, int], ...], normalised: bool) -> float:
    """Return the largest relative difference in outputs and gradients."""
    rows = VIDEOS * steps * PLACES
    matrix = torch.randn(rows, channels)
    # Shifts far from zero: what lies beyond a video's ends must not be taken for a normalised zero.
    statistics = Statistics(torch.randn(channels) - 3, torch.rand(channels) + 0.5, of_batch=True)
    given = Input(matrix, statistics if normalised else None, steps, PLACES, torch.float32)
    filters = [Filter(torch.randn(channels, 1, size, 1), dilation) for size, dilation in kinds]
    upper = torch.randn(len(kinds), rows, channels)
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
    return max(((a - b).norm() / b.norm()).item() for a, b in pairs)


def check_supernet() -> None:
    """Compare a supernet with Triton's filters with NNI's."""
    convolutions.filter_bank = lambda device, scratch: TritonFilters()
    theirs, ours = pair(torch.float32, num_layers=1)
    x = features(torch.float32, size=1)
    assert_same(run(ours, x), run(theirs, x), 1e-4)


if __name__ == "__main__":
    torch.manual_seed(0)
    for steps, channels, normalised in itertools.product((2, 8), (16, 48), (False, True)):
        kinds = KINDS[2:4] if normalised and steps == 8 else KINDS
        difference = check(steps, channels, kinds, normalised)
        print(f"T {steps}, C {channels}, normalised {normalised}: {difference:.1e}")
        assert difference < 1e-5, difference
    check_supernet()
    print("the supernet is NNI's")
