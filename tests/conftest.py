"""Fixtures that all tests share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

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
