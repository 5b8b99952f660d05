"""Fixtures that all tests share."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.toy import ToySet

# The tests run side by side (and start processes): threads of their own would only be in each other's way.
torch.set_num_threads(1)
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Of a shell's background job SIGINT is ignored, also in the processes that it starts: none would end by Ctrl-C.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

NNI_SERVERS = ("tests/experiments/", "tests/search/test_multi_trial.py", "tests/search/test_trial.py")
"""Where NNI's servers run; these tests look whether any is left, so that no two of them may run at the same time."""

SHARED = Path(__file__).resolve().parents[2] / "shared"


def pytest_itemcollected(item: pytest.Item) -> None:
    """Keep the tests of NNI's servers in one process."""
    if item.nodeid.startswith(NNI_SERVERS):
        item.add_marker(pytest.mark.xdist_group("nni"))


@pytest.fixture(autouse=True)
def _seeded():
    """Every test starts from the same random state."""
    torch.manual_seed(0)
    np.random.seed(0)


@pytest.fixture(scope="session")
def shared() -> Path:
    """Return the folder of development material (real clips, annotations, reference outputs)."""
    if not SHARED.is_dir():
        pytest.skip(f"the development material {SHARED} is not here: it is no part of the product")
    return SHARED


@pytest.fixture(scope="session")
def kinetics400() -> Path:
    """Return the Kinetics-400 weights of I3D in the user's cache, fetched if need be; only CI insists on them."""
    from nni_nastc.errors import WeightsError
    from nni_nastc.features.weights import fetch_kinetics400

    try:
        return fetch_kinetics400()
    except WeightsError as problem:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(f"no Kinetics-400 weights: {problem}")


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> ToySet:
    """Return a small store of made-up features with annotations."""
    return ToySet.make(tmp_path_factory.mktemp("toy"))
