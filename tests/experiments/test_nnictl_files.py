"""The shipped experiment files: valid to NNI, their parameters valid to us, the cell's space from the one table."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from nni.experiment.config import ExperimentConfig

from nni_nastc.config import BenchConfig, SearchConfig, TrainConfig, load_config, parse_override
from nni_nastc.errors import GenotypeError
from nni_nastc.experiments.cell_space import CELL_SPACE_FILE, cell_of, cell_space, is_cell_parameter
from nni_nastc.genotype import OPERATION_NAMES, Genotype
from nni_nastc.models import find_network
from nni_nastc.nn.ops import OPS
from nni_nastc.search.strategies import make_strategy
from nni_nastc.search.trial import read_parameters

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "examples" / "nnictl").glob("*.yml"))


def space_of(path: Path) -> dict[str, Any]:
    content = yaml.safe_load(path.read_text())
    return content.get("searchSpace") or json.loads((path.parent / content["searchSpaceFile"]).read_text())


def values_of(choice: Mapping[str, Any]) -> list[Any]:
    """All values of a choice, or the ends of a range; of a nested choice each branch with each of its values."""
    if choice["_type"] != "choice":
        return list(choice["_value"])
    found = []
    for value in choice["_value"]:
        if isinstance(value, dict):
            inner = {name: values_of(part) for name, part in value.items() if name != "_name"}
            count = max(map(len, inner.values()), default=1)
            found += [
                {"_name": value["_name"]} | {name: vs[min(n, len(vs) - 1)] for name, vs in inner.items()}
                for n in range(count)
            ]
        else:
            found.append(value)
    return found


def samples(space: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Samples in which every value of every parameter occurs."""
    values = {name: values_of(choice) for name, choice in space.items()}
    for number in range(max(map(len, values.values()))):
        yield {name: some[min(number, len(some) - 1)] for name, some in values.items()}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_nni_takes_the_file(path, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh" / "id_ed25519").touch()  # NNI wants the key of remote.yml to be there
    config = ExperimentConfig.load(path).canonical_copy()
    assert config.max_trial_number
    if path.stem == "bench":
        assert (config.tuner.name, config.tuner.class_args) == ("GridSearch", None), "nothing is tuned"
    else:
        assert (config.tuner.name, config.tuner.class_args) == ("TPE", {"optimize_mode": "maximize"})
    assert Path(config.trial_code_directory) == path.parent, "a remote machine gets this folder only"


def test_the_bench_has_a_trial_for_each_run_of_the_demos():
    path = ROOT / "examples" / "nnictl" / "bench.yml"
    content = yaml.safe_load(path.read_text())
    words = shlex.split(content["trialCommand"])
    assert words[3:5] == ["bench", "--config"]
    assert (path.parent / words[5]).resolve() == ROOT / "examples" / "demo" / "bench.yaml"
    config = load_config(BenchConfig, path.parent / words[5], words[6:])
    space = {name: tuple(choice["_value"]) for name, choice in content["searchSpace"].items()}
    assert space == {"run.method": config.methods, "run.seed": config.seeds}
    assert content["maxTrialNumber"] == len(config.methods) * len(config.seeds)
    here = load_config(BenchConfig, path.parent / words[5])
    for mine, theirs in ((config.output, here.output), (config.data.store, here.data.store)):
        assert (path.parent / mine).resolve() == (ROOT / theirs).resolve(), "nastc bench finds the runs"


@pytest.mark.parametrize("path", [path for path in FILES if path.stem != "bench"], ids=lambda path: path.stem)
def test_every_parameter_is_one_of_the_configuration(path):
    words = shlex.split(yaml.safe_load(path.read_text())["trialCommand"])
    assert words[:3] == ["python", "-m", "nni_nastc.search.trial"]
    task, fixed = words[3], dict(map(parse_override, words[4:]))
    for sample in samples(space_of(path)):
        values = {"output": "x", "genotype": "pool"} | fixed | read_parameters(sample)
        if task == "search":
            values.pop("genotype")
            make_strategy(load_config(SearchConfig, None, values).strategy)
        else:
            cell = {name: values.pop(name) for name in list(values) if is_cell_parameter(name)}
            assert bool(cell) == (task == "cell")
            find_network(load_config(TrainConfig, None, values).genotype)
            assert not cell or cell_of(cell)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_header_says_how_to_run_it(path):
    name = path.relative_to(ROOT)
    header = path.read_text().partition("experimentName")[0]
    assert f"nnictl create --config {name} --port 8080 --url_prefix $NASTC_PREFIX" in header
    assert f"nastc launch {name}" in header
    assert len(re.findall(r"data\.store=\S+/runs/demo/store data\.annotations=", path.read_text())) == 1


def test_the_shipped_space_is_that_of_the_table_of_operations():
    shipped = json.loads(CELL_SPACE_FILE.read_text(encoding="utf-8"))
    assert shipped == cell_space(), "make it anew: python -m nni_nastc.experiments.cell_space"
    assert len(shipped) == 16
    for name, choice in shipped.items():
        kind, node, slot = name.split("_")
        assert int(slot) in (0, 1)
        wanted = list(OPS) if kind == "op" else list(range(int(node)))
        assert choice == {"_type": "choice", "_value": wanted}, name


def test_cells_are_read_back():
    for seed in range(20):
        cell = Genotype.random(seed, OPERATION_NAMES)
        nodes = {
            f"{kind}_{node + 2}_{slot}": pair[part]
            for node, pairs in enumerate(cell.nodes)
            for slot, pair in enumerate(pairs)
            for part, kind in enumerate(("op", "input"))
        }
        assert cell_of(nodes) == cell
        with pytest.raises(GenotypeError, match=r"missing \['input_2_0'\], unknown \['input_2_7'\]"):
            cell_of({name.replace("input_2_0", "input_2_7"): value for name, value in nodes.items()})
