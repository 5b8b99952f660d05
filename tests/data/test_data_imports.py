"""Reading annotations and features needs neither NNI nor a decoder; annotations need no torch either."""

from __future__ import annotations

import subprocess
import sys

import pytest

HIDE = "import sys\nfor name in {names}: sys.modules[name] = None\n"


@pytest.mark.parametrize(
    ("module", "hidden"),
    [
        ("nni_nastc.data.datamodule", ["nni", "av"]),
        ("nni_nastc.data.splits", ["nni", "av", "torch", "matplotlib"]),
        ("nni_nastc.data.check", ["nni", "av", "torch", "matplotlib"]),
    ],
)
def test_import(module, hidden):
    code = HIDE.format(names=hidden) + f"import {module}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
