"""Names of devices; memory that a process keeps."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest
import torch

from nni_nastc.devices import choose_device
from nni_nastc.errors import ModelError


@pytest.mark.parametrize("name", ["tpu", "", "cuda:x", "meta", "cpu:0", "CPU"])
def test_names_that_are_no_device(name):
    with pytest.raises(ModelError, match="a device is auto, cpu, cuda or cuda:NUMBER"):
        choose_device(name)


def test_a_gpu_that_is_not_there():
    with pytest.raises(ModelError, match="no such GPU: cuda:99; this machine has"):
        choose_device("cuda:99")


def test_auto():
    assert choose_device("auto") == torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_freed_memory_is_kept():
    """Ten tensors of 24 MB, freed together, cost page faults only once."""
    code = """
import resource, torch
from nni_nastc.devices import keep_freed_memory
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def fill():
    del [torch.ones(6 * 2**20) for _ in range(10)][:]
fill()
counts = [faults()]
fill()
counts.append(faults())
keep_freed_memory()
fill()
fill()
counts.append(faults())
fill()
counts.append(faults())
print(counts[1] - counts[0], counts[3] - counts[2])
"""
    output = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    given_back, kept = map(int, output.split())
    assert kept < 1000, output
    assert given_back > 10 * max(kept, 1), f"there is nothing to save here: {output}"
