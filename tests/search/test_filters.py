"""Of several ways to compute filters the fastest is taken; those of Triton compute what PyTorch's do, and compile."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec

import pytest
import torch

from nni_nastc.search import filters as module
from nni_nastc.search.filters import FasterFilters, Filter, Input, LibraryFilters, filter_bank, measured_filters
from nni_nastc.search.states import Scratch
from tests.distributed_jobs import ROOT

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")


def run(name: str, **environment: str) -> str:
    command = [sys.executable, "-m", f"tests.search.{name}"]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, **environment})
    assert shown.returncode == 0, shown.stderr
    return shown.stdout


@needs_triton
@pytest.mark.slow
def test_triton_computes_what_the_library_does():
    """In Triton's interpreter, in a process of its own: it is chosen when Triton is imported."""
    shown = run("triton_check", TRITON_INTERPRET="1")
    assert shown.count("normalised True") == 4
    assert shown.endswith("the supernet is NNI's\n")


@needs_triton
@pytest.mark.slow
def test_triton_kernels_compile_for_gpus():
    """For compute capabilities 8.0 and 9.0, without such a GPU, and without spilling registers to memory."""
    assert run("triton_compile").count("no spills") == 2 * 3 * 2 * 2


@pytest.mark.gpu
@needs_gpu
@needs_triton
def test_triton_on_a_gpu():
    assert run("triton_check").endswith("the supernet is NNI's\n")


def given() -> tuple[Input, list[Filter]]:
    matrix = torch.randn(2 * 4 * 3, 16)
    return Input(matrix, None, 4, 3, torch.float32), [Filter(torch.randn(16, 1, 3, 1), 1)]


def test_the_faster_bank_is_taken_for_each_size(monkeypatch):
    class Slow(LibraryFilters):
        pass

    class Fast(LibraryFilters):
        pass

    monkeypatch.setattr(FasterFilters, "measured", {})
    measured = []
    seconds = {Slow: 2.0, Fast: 1.0}
    monkeypatch.setattr(module, "filter_seconds", lambda bank, *_: measured.append(type(bank)) or seconds[type(bank)])
    slow, fast = Slow(Scratch()), Fast(Scratch())
    bank = FasterFilters([slow, fast])
    monkeypatch.setattr(slow, "forward", None)
    inputs = given()
    (expected,) = fast.forward(*inputs)
    for _ in range(2):
        (found,) = bank.forward(*inputs)
        assert torch.equal(found, expected)
    assert measured == [Slow, Fast], "once for a size"
    bank.forward(*given()[:1], [Filter(torch.randn(16, 1, 5, 1), 2)])
    assert measured == [Slow, Fast] * 2, "anew for others"
    told = {"rows": 24, "channels": 16, "dtype": "torch.float32", "seconds": {"Slow": 2.0, "Fast": 1.0}}
    assert measured_filters() == [
        {**told, "kernels_and_dilations": ((3, 1),)},
        {**told, "kernels_and_dilations": ((5, 2),)},
    ]


def test_seconds_of_a_bank():
    class Counted(LibraryFilters):
        calls = 0

        def forward(self, *arguments):
            self.calls += 1
            return super().forward(*arguments)

    bank = Counted(Scratch())
    assert 0 < module.filter_seconds(bank, *given(), repeats=2) < 10
    assert bank.calls == 3, "one to warm up"


def test_a_way_for_which_memory_is_short_is_not_taken(monkeypatch):
    class Hungry(LibraryFilters):
        def forward(self, *arguments):
            raise torch.cuda.OutOfMemoryError("no")

    monkeypatch.setattr(FasterFilters, "measured", {})
    bank = FasterFilters([Hungry(Scratch()), LibraryFilters(Scratch())])
    assert len(list(bank.forward(*given()))) == 1
    (told,) = measured_filters()
    assert told["seconds"]["Hungry"] is None
    assert told["seconds"]["LibraryFilters"] > 0


@needs_triton
def test_triton_that_does_not_work_is_told_and_left(monkeypatch, caplog):
    """Here it finds no GPU; elsewhere it may miss a C compiler."""
    from nni_nastc.search import triton_filters

    def fail(*_):
        raise RuntimeError("Failed to find C compiler.\nPlease specify via CC")

    monkeypatch.setattr(triton_filters, "_filter", fail)
    triton_filters.triton_problem.cache_clear()
    module._has_triton.cache_clear()
    for _ in range(2):
        assert not module._has_triton(torch.device("cpu"))
    triton_filters.triton_problem.cache_clear()
    module._has_triton.cache_clear()
    assert [record.getMessage() for record in caplog.records] == [
        "Triton does not work here (Failed to find C compiler.); searching with PyTorch's own kernels"
    ]


def test_a_cpu_takes_the_library():
    assert isinstance(filter_bank(torch.device("cpu"), Scratch()), LibraryFilters)


@pytest.mark.gpu
@needs_gpu
@needs_triton
def test_deterministic_mode_takes_the_library():
    torch.use_deterministic_algorithms(True)
    try:
        assert isinstance(filter_bank(torch.device("cuda"), Scratch()), LibraryFilters)
    finally:
        torch.use_deterministic_algorithms(False)
    assert isinstance(filter_bank(torch.device("cuda"), Scratch()), FasterFilters)
