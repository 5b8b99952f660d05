"""The package as a whole: import cost, public names, layering."""

from __future__ import annotations

import inspect
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


def test_the_names_that_others_rely_on():
    from nni_nastc import OPS, Genotype, NasTCSpace, TempDARTS, build_network, build_timeception, load_i3d

    def parameters(function):
        return [str(p.replace(annotation=p.empty)) for p in inspect.signature(function).parameters.values()]

    sizes = ["num_classes", "num_layers=3", "in_channels=1024", "num_groups=None"]
    assert parameters(build_network) == ["genotype", *sizes]
    sizes = ["num_classes", "num_layers=3", "in_channels=1024", "num_groups=8", "dilated=False"]
    assert parameters(build_timeception) == sizes
    space = NasTCSpace(num_classes=3, num_layers=1, in_channels=16, num_groups=None, operations=None)  # NNI wraps it
    frozen = space.freeze(Genotype.random(0).to_nni()).state_dict()
    assert list(frozen) == list(build_network(Genotype.random(0), num_classes=3, num_layers=1).state_dict())
    assert parameters(load_i3d) == ["weights"]
    assert parameters(Genotype)[0] == "nodes"
    assert all(callable(getattr(Genotype, name)) for name in ("random", "to_json", "from_json", "to_nni", "from_nni"))
    assert len(OPS) == 9
    assert [base.__module__.split(".")[0] for base in TempDARTS.__bases__] == ["nni"]


def test_dir_lists_the_public_names():
    import nni_nastc

    assert set(nni_nastc.__all__) <= set(dir(nni_nastc))
