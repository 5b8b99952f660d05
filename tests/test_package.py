"""The package as a whole: import cost, public names, layering."""

from __future__ import annotations

import subprocess
import sys

import pytest


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_importing_brings_neither_nni_nor_decoder_nor_torch():
    loaded = run_python(
        "import sys, nni_nastc; print([m for m in ('nni', 'av', 'torch', 'pytorch_lightning') if m in sys.modules])"
    )
    assert loaded == "[]"


def test_importing_takes_under_a_second():
    seconds = float(
        run_python("import time; start = time.perf_counter(); import nni_nastc; print(time.perf_counter() - start)")
    )
    assert seconds < 1.0


def test_unknown_name_is_an_attribute_error():
    import nni_nastc

    with pytest.raises(AttributeError, match="no_such_name"):
        _ = nni_nastc.no_such_name
