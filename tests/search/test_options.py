"""Options of strategies: types, names, dependencies."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

from nni_nastc.config import StrategyConfig
from nni_nastc.errors import ConfigError
from nni_nastc.search import options
from nni_nastc.search.strategies import STRATEGIES, make_strategy
from tests.toy import ToySet


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "TempDART"}, "did you mean TempDARTS"),
        ({"name": "darts"}, "unknown 'darts'.*did you mean DARTS"),
        ({"arc_learning_rte": 0.1}, "strategy.arc_learning_rte: unknown.*did you mean arc_learning_rate"),
        ({"arc_learning_rate": "fast"}, "strategy.arc_learning_rate: input should be a valid number.*got 'fast'"),
        ({"arc_learning_rate": -1}, "input should be greater than or equal to 0, got -1"),
        ({"arc_learning_rate": float("inf")}, "input should be a finite number, got inf"),
        ({"warmup_epochs": 0.5}, "strategy.warmup_epochs: input should be a valid integer.*got 0.5"),
        ({"name": "GumbelDARTS", "temperature": [1, 2, 3]}, r"strategy.temperature: .*number or .*got \[1, 2, 3\]"),
        ({"name": "GumbelDARTS", "temperature": [0.1, 1]}, "must not rise, got 0.1 to 1.0"),
        ({"name": "RandomOneShot", "samples": 0}, "strategy.samples: .*greater than or equal to 1, got 0"),
        ({"arc_learning_rte": 1, "warmup_epochs": -1}, "arc_learning_rte.*; strategy.warmup_epochs"),
        ({"name": "TPE", "warmup_epochs": 1}, r"unknown.*; 'strategy=.name: NAME.' on the command line leaves"),
    ],
)
def test_options_are_checked(options, message):
    with pytest.raises(ConfigError, match=message):
        make_strategy(StrategyConfig(**options))


def test_numbers_that_yaml_takes_for_text_are_read():
    assert make_strategy(StrategyConfig(arc_learning_rate="3e-4")).arc_learning_rate == 3e-4


def test_null_where_a_number_is_needed():
    assert make_strategy(StrategyConfig(gradient_clip_val=None)).gradient_clip_val is None
    with pytest.raises(ConfigError, match=r"strategy\.arc_learning_rate: input should be a valid number, got None"):
        make_strategy(StrategyConfig(arc_learning_rate=None))


@pytest.mark.parametrize("name", sorted(STRATEGIES))
def test_every_strategy_is_made_without_options_and_refuses_unknown_ones(name):
    make_strategy(StrategyConfig(name=name))
    with pytest.raises(ConfigError, match=r"^strategy\.no_such_option: unknown 'no_such_option', known are"):
        make_strategy(StrategyConfig(name=name, no_such_option=1))


def test_the_nearest_strategy_is_named():
    with pytest.raises(ConfigError, match=r"strategy.name: unknown 'proxyles', .*did you mean Proxyless\?"):
        make_strategy(StrategyConfig(name="proxyles"))


def test_a_temperature_is_a_number_or_a_pair():
    constant = make_strategy(StrategyConfig(name="GumbelDARTS", temperature="0.5")).temperature
    falling = make_strategy(StrategyConfig(name="GumbelDARTS", temperature=[2, 1])).temperature
    assert (constant.init, constant.min, falling.init, falling.min) == (0.5, 0.5, 2.0, 1.0)


def test_enas_without_its_dependency_names_the_extra(toy: ToySet, tmp_path, monkeypatch):
    from nni_nastc.search.runner import run_search

    monkeypatch.setattr(options, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"^strategy ENAS needs tianshou.*pip install 'nni_nastc\[rl\]'$"):
        run_search(toy.search(tmp_path / "run", strategy={"name": "ENAS"}))
    assert not (tmp_path / "run").exists()


def test_the_readme_lists_every_strategy_with_its_options():
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \|[^|]+\|([^|]*)\|", readme, flags=re.MULTILINE))
    told = {name: set(re.findall(r"`(\w+)`", cell)) for name, cell in rows.items() if name in STRATEGIES}
    for name, strategy in STRATEGIES.items():
        parameters = inspect.signature(strategy).parameters.values()
        wanted = {p.name for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}
        for other in told[name] & set(STRATEGIES):  # "as TempDARTS"
            told[name] = told[name] - {other} | told[other]
        assert told[name] == wanted, name
