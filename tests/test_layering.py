"""Imports point one way, and each third-party library stays behind its fence."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "nni_nastc"

# A module may import from lower levels and from its own level's package. Longest prefix wins.
LEVELS = {
    "": 0,  # the package itself: the version and lazy names
    "errors": 0,
    "arguments": 0,
    "files": 1,
    "config": 3,
    "genotype": 2,
    "devices": 2,
    "distributed": 1,
    "acceleration": 3,
    "session": 3,
    "features.superframes": 2,
    "evaluation.metrics": 2,
    "evaluation.predictions": 2,
    "nn": 3,
    "features": 3,
    "plots": 3,
    "baselines": 4,
    "space": 4,
    "data": 4,
    "models": 5,
    "evaluation": 5,
    "runs": 5,
    "experiments": 6,
    "bundle": 6,
    "export": 7,
    "predict": 7,
    "evaluate": 7,
    "training": 7,
    "bench": 8,
    "search": 9,
    "speed": 10,
    "demo": 10,
    "cli": 11,
    "__main__": 12,
}

FENCES = {
    "h5py": ("features.array_files",),
    "av": ("features.video", "data.synthetic"),
    "nni": ("space", "search", "evaluation.module", "experiments", "speed"),
    "yaml": ("config",),
    "matplotlib": ("plots",),
    "onnxruntime": ("export",),
    "onnx": ("export",),
    "rich": ("cli",),
    "triton": ("search.triton_filters", "search.triton_kernels"),
}

MODULES = sorted(PACKAGE.rglob("*.py"))


def name_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def level_of(module: str) -> int:
    parts = module.split(".")
    prefixes = [".".join(parts[:n]) for n in range(len(parts), 0, -1)]
    return next(LEVELS[prefix] for prefix in [*prefixes, ""] if prefix in LEVELS)


def imports_of(path: Path, *, inside: bool) -> set[str]:
    """All modules that a file imports, those within functions too; ``inside`` the package or outside it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    ours = {name.removeprefix("nni_nastc").lstrip(".") for name in found if name.split(".")[0] == "nni_nastc"}
    return ours if inside else {name.split(".")[0] for name in found}


def belongs(module: str, prefix: str) -> bool:
    return module == prefix or module.startswith(f"{prefix}.")


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_point_one_way(path):
    module = name_of(path)
    if not module:
        pytest.skip("the package's lazy names are resolved at use")
    package = module.split(".")[0]
    for imported in imports_of(path, inside=True) - {""}:
        if imported.split(".")[0] == package:
            continue
        assert level_of(imported) < level_of(module), f"{module} imports {imported}, which is not below it"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_fences(path):
    module = name_of(path)
    for library in imports_of(path, inside=False) & set(FENCES):
        assert any(belongs(module, fence) for fence in FENCES[library]), f"{module} imports {library}"


def test_every_file_has_a_level():
    top = {name_of(path).split(".")[0] for path in MODULES}
    assert top <= {key.split(".")[0] for key in LEVELS}
