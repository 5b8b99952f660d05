"""Fixtures that all tests share."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.toy import ToySet

SHARED = Path(__file__).resolve().parents[2] / "shared"


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
