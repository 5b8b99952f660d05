"""What a user gets who installs the wheel: the code, the search spaces, the genotypes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

CODE = """
import nni_nastc, torch
from nni_nastc.config import find_space
from nni_nastc.models import SEARCH_SPACES, NetworkSpec, build_model, find_network, shipped_genotypes
from nni_nastc.experiments.server import PRELOAD
assert PRELOAD.is_file()
space = find_space("nastc", SEARCH_SPACES)
for name in shipped_genotypes():
    network = build_model(NetworkSpec(find_network(name), 5, 16, space.num_layers, space.num_groups))
    print(nni_nastc.__file__, name, tuple(network(torch.randn(2, 16, 8, 1, 1)).shape))
"""


@pytest.mark.slow
def test_the_wheel_builds_a_network_in_an_empty_folder(tmp_path):
    source = tmp_path / "source"
    ignored = shutil.ignore_patterns(".*", "build", "dist", "runs", "*.egg-info", "tests", "__pycache__")
    shutil.copytree(ROOT, source, symlinks=True, ignore=ignored)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", tmp_path, source], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", tmp_path / "site", wheel], check=True)
    empty = tmp_path / "empty"
    empty.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    done = subprocess.run(
        [sys.executable, "-c", CODE], cwd=empty, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout
    for line in done.stdout.splitlines():
        assert line.startswith(str(tmp_path / "site"))
        assert line.endswith("(2, 5)")
