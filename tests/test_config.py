"""Configurations: unknown keys, all problems at once, overrides, shipped files."""

from __future__ import annotations

from pathlib import Path

import pytest

from nni_nastc.config import (
    EvaluateConfig,
    SearchConfig,
    SpaceConfig,
    TrainConfig,
    dump_config,
    find_space,
    load_config,
    load_yaml,
)
from nni_nastc.errors import ConfigError
from nni_nastc.genotype import SEARCHED_OPERATIONS
from nni_nastc.models import SEARCH_SPACES

ROOT = Path(__file__).parents[1]

MINIMAL = "output: out\ndata: {store: s, annotations: a.json}\n"


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    return path


def test_defaults_are_dartss_published_settings(tmp_path):
    config = load_config(SearchConfig, written(tmp_path, MINIMAL))
    assert (config.optimizer.learning_rate, config.optimizer.final_learning_rate) == (0.025, 0.001)
    assert (config.optimizer.momentum, config.optimizer.weight_decay) == (0.9, 3e-4)
    assert (config.epochs, config.data.timesteps, config.strategy.name) == (50, 32, "TempDARTS")


def test_defaults_of_training_are_the_papers(tmp_path):
    config = load_config(TrainConfig, written(tmp_path, MINIMAL + "genotype: pool\n"))
    assert (config.optimizer.learning_rate, config.optimizer.eps, config.epochs) == (0.01, 1e-4, 300)
    assert config.hold_out == 0.1


def test_all_problems_are_told_at_once(tmp_path):
    text = "output: out\ndata: {store: s, anotations: a.json, timesteps: 0}\nepochs: many\nopitmizer: {}\n"
    with pytest.raises(ConfigError) as caught:
        load_config(SearchConfig, written(tmp_path, text))
    message = str(caught.value)
    assert "\n" not in message
    assert "unknown key data.anotations (did you mean data.annotations?)" in message
    assert "data.annotations is missing" in message
    assert "data.timesteps: input should be greater than or equal to 1, got 0" in message
    assert "epochs: input should be a valid integer" in message
    assert "got 'many'" in message
    assert "unknown key opitmizer (did you mean optimizer?)" in message


def test_overrides_win_and_are_yaml(tmp_path):
    config = load_config(
        SearchConfig,
        written(tmp_path, MINIMAL + "epochs: 3\n"),
        ["epochs=7", "data.batch_size=4", "optimizer.learning_rate=1e-2", "space=small", "num_layers=null"],
    )
    assert (config.epochs, config.data.batch_size, config.optimizer.learning_rate) == (7, 4, 0.01)
    assert (config.space, config.num_layers) == ("small", None)
    assert config.data.store == Path("s")


def test_defaults_give_way_to_overrides():
    values = {"checkpoint": "m", "output": "o", "store": "s", "annotations": "a"}
    config = load_config(EvaluateConfig, None, ["store=other", "draws=3"], defaults=values)
    assert (config.store, config.draws, config.annotations) == (Path("other"), 3, Path("a"))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("epochs", "key=value"),
        ("=3", "key=value"),
        ("output.x=1", "output is a value, not a section"),
        ("epochs=[", "not YAML"),
        ("epoch=3", r"unknown key epoch \(did you mean epochs\?\)"),
        ("gpus=1", r"unknown key gpus \(did you mean trials.gpus\?\)"),
    ],
)
def test_wrong_overrides(tmp_path, override, message):
    with pytest.raises(ConfigError, match=message):
        load_config(SearchConfig, written(tmp_path, MINIMAL), [override])


@pytest.mark.parametrize(
    ("text", "message"), [("a: [", "is not YAML"), ("- 1\n", "must hold keys and values, got list")]
)
def test_broken_files(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message):
        load_config(SearchConfig, written(tmp_path, text))


def test_missing_file(tmp_path):
    with pytest.raises(ConfigError, match="no such configuration file"):
        load_config(SearchConfig, tmp_path / "none.yaml")


def test_resolved_configuration_round_trips(tmp_path):
    config = load_config(SearchConfig, written(tmp_path, MINIMAL), ["strategy.arc_learning_rate=0.001"])
    again = load_config(SearchConfig, written(tmp_path, dump_config(config)))
    assert again == config
    assert again.strategy.options == {"arc_learning_rate": 0.001}


@pytest.mark.parametrize("path", sorted((ROOT / "search_spaces").glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_spaces(path):
    space = find_space(path.stem, SEARCH_SPACES)
    assert set(space.operations) <= set(SEARCHED_OPERATIONS)
    assert path.read_text().startswith("#")
    assert set(load_yaml(path)) == set(SpaceConfig.model_fields)


def test_the_papers_space_has_all_operations():
    space = find_space("nastc", SEARCH_SPACES)
    assert space.operations == SEARCHED_OPERATIONS
    assert space.num_layers == 3


def test_unknown_space():
    with pytest.raises(ConfigError, match="no search space is called 'nastk'.*nastc, nastc_small"):
        find_space("nastk", SEARCH_SPACES)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("output: a\noutput: b\n", "the key output is given twice"),
        ("seed: " + "9" * 5000, "is not YAML"),
        ("output: 2024-99-99", "is not YAML: month must be in 1..12"),
        ("[" * 5000, "is not YAML"),
        (MINIMAL + "seed: 4294967296", "seed: input should be less than 4294967296"),
        (MINIMAL + "trainer: {devices: 0}", "trainer.devices.*greater than or equal to 1"),
        ("output: o\ndata: {store: s, annotations: a, batch_size: 99999999999999999999}", "data.batch_size"),
    ],
)
def test_yaml_that_makes_no_sense(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(SearchConfig, written(tmp_path, text))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_override_that_is_no_yaml(tmp_path):
    with pytest.raises(ConfigError, match="the value of seed is not YAML: '9999"):
        load_config(SearchConfig, written(tmp_path, MINIMAL), ["seed=" + "9" * 5000])


def test_one_key_in_two_sections_is_no_repetition(tmp_path):
    config = load_config(TrainConfig, written(tmp_path, MINIMAL + "genotype: pool\noptimizer: {eps: 1.0e-4}\nseed: 1"))
    assert config.seed == 1
