"""What the README promises: commands that parse, names that exist, files that are there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from torch.distributed.run import get_args_parser

from nni_nastc.cli.main import build_parser
from nni_nastc.config import SearchConfig, load_config

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^( *)```(\w+)\n(.*?)^ *```", README, flags=re.MULTILINE | re.DOTALL)


def lines_of(language: str) -> list[str]:
    return [line.strip() for _, kind, text in BLOCKS if kind == language for line in text.splitlines() if line.strip()]


COMMANDS = [
    shlex.split(part, comments=True)[1:]
    for line in lines_of("bash")
    for part in line.split("&&")
    if part.split()[0] == "nastc"
]


def test_there_are_commands_to_check():
    named = {command[0] for command in COMMANDS}
    assert named >= {"demo", "extract", "search", "train", "evaluate", "predict", "export"}


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_commands_parse(command):
    build_parser().parse_args(command)


SEARCHES = [command for command in COMMANDS if command[0] == "search" and Path(ROOT / command[1]).is_file()]


@pytest.mark.parametrize("command", SEARCHES, ids=" ".join)
def test_searches_are_set_up_by_what_they_say(command):
    from nni_nastc.search.strategies import make_strategy

    config = load_config(SearchConfig, ROOT / command[1], command[2:])
    assert type(make_strategy(config.strategy)).__name__ == config.strategy.name


def test_the_lines_for_many_machines_start_what_they_announce():
    (torchrun,) = [shlex.split(line) for line in lines_of("bash") if line.startswith("torchrun")]
    (srun,) = [shlex.split(line) for line in lines_of("bash") if line.startswith("srun")]
    started = get_args_parser().parse_args(torchrun[1:])
    assert (started.module, started.training_script) == (True, "nni_nastc")
    ours = build_parser().parse_args(started.training_script_args)
    assert (int(started.nnodes), int(started.nproc_per_node)) == (ours.num_nodes, ours.devices) == (2, 4)
    ours = build_parser().parse_args(srun[srun.index("nastc") + 1 :])
    options = dict(zip(srun[1::2], srun[2::2], strict=False))
    assert [options[name] for name in ("--nodes", "--ntasks-per-node", "--gpus-per-node")] == ["2", "4", "4"]
    assert (ours.num_nodes, ours.devices) == (2, 4)


def test_the_python_example_imports_what_there_is():
    import nni_nastc

    (names,) = re.findall(r"^from nni_nastc import (.+)$", README, flags=re.MULTILINE)
    assert all(hasattr(nni_nastc, name) for name in names.split(", "))


@pytest.mark.parametrize("path", sorted(set(re.findall(r"\b(?:examples|search_spaces|nni_nastc)/[\w./]+\b", README))))
def test_paths_exist(path):
    assert (ROOT / path).exists(), f"the README names {path}"


def test_two_commands_set_everything_up():
    first, second = (line for line in lines_of("bash") if line.startswith("python3 -m venv"))
    assert first.endswith("nastc demo --out runs/demo")
    assert second.endswith("python -m pytest"), "what .ci/run takes out of the README and runs"


def test_the_table_of_methods_is_that_of_the_package():
    from nni_nastc.models import METHODS, NetworkSpec, build_model

    rows = [line.split("|")[1:-1] for line in README.splitlines() if re.match(r"\| `\w+`", line)]
    table = {}
    for row in rows:
        names, sizes = re.findall(r"`(\w+)`", row[0]), row[-1].split(",")
        table |= dict(zip(names, sizes if len(sizes) == len(names) else sizes * len(names), strict=True))
    assert set(METHODS) <= set(table)
    for name in METHODS:
        network = build_model(NetworkSpec(name, 157, 1024, 3))
        assert f"{sum(p.numel() for p in network.parameters()) / 1e6:.2f}" == table[name].strip(), name
