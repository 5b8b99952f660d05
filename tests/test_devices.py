"""Names of devices."""

from __future__ import annotations

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
