"""``nastc search``, ``train``, ``evaluate`` and ``export`` one after the other, as the README does it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from nni_nastc.bundle import load_bundle
from nni_nastc.cli.main import main
from nni_nastc.genotype import Genotype
from tests.toy import ToySet

ROOT = Path(__file__).parents[2]


@pytest.fixture
def configs(toy: ToySet, tmp_path, monkeypatch) -> Path:
    """A working folder with the two YAML files of the README's example, on the toy store."""
    for name in ("search", "train"):
        values = yaml.safe_load((ROOT / "examples" / "own_videos" / f"{name}.yaml").read_text())
        values |= {"output": f"runs/{name}", "data": toy.data(), "epochs": 1, "trainer": {"accelerator": "cpu"}}
        if name == "search":
            values["num_layers"] = 2
        else:
            values |= {"num_layers": 2, "genotype": "runs/search"}
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(values))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_chain(configs, capsys):
    assert main(["search", "search.yaml", "strategy.arc_learning_rate=0.01"]) == 0
    search = configs / "runs" / "search"
    assert {"genotype.json", "history.json", "cell.png", "config.yaml"} <= {path.name for path in search.iterdir()}
    assert yaml.safe_load((search / "config.yaml").read_text())["strategy"]["arc_learning_rate"] == 0.01
    assert "node 3: " in capsys.readouterr().out

    assert main(["train", "train.yaml", "final=true"]) == 0
    train = configs / "runs" / "train"
    metrics = json.loads((train / "metrics.json").read_text())
    assert f"train_loss: {metrics['train_loss']:.4f}" in capsys.readouterr().out
    assert load_bundle(train)[0].spec.network == Genotype.from_json(search / "genotype.json")

    assert main(["evaluate", "runs/train"]) == 0, "store and annotations are those of the training"
    metrics = json.loads((train / "evaluation" / "metrics.json").read_text())
    assert f"accuracy: {metrics['accuracy']:.4f} on 8 test videos, 10 draws each" in capsys.readouterr().out

    assert main(["evaluate", "runs/train", "output=runs/train"]) == 2
    assert "runs/train holds another run" in capsys.readouterr().err
    assert json.loads((train / "metrics.json").read_text())["network"] == "nas_tc", "the training's own metrics stay"

    assert main(["evaluate", "runs/train", "draws=2", "subset=train", "output=runs/elsewhere"]) == 0
    metrics = json.loads((configs / "runs" / "elsewhere" / "metrics.json").read_text())
    assert (metrics["draws"], metrics["subset"], metrics["videos"]) == (2, "train", 24)


def test_train_with_a_shipped_genotype_needs_no_search(configs, capsys):
    assert main(["train", "train.yaml", "--genotype", "sep_conv_3", "output=runs/shipped"]) == 0
    assert "held_out_accuracy" in capsys.readouterr().out
    assert set(load_bundle("runs/shipped")[0].spec.network.operations) == {"sep_conv_3"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["search", "search.yaml", "epoch=3", "data.stroe=s"], "unknown key data.stroe (did you mean data.store?)"),
        (["search", "search.yaml", "data.timesteps=6"], "T = 6 with L = 2"),
        (["train", "train.yaml", "data.timesteps=6", "genotype=sep_conv_3"], "T = 6 with L = 2"),
        (["train", "train.yaml"], "no network is called 'runs/search'"),
        (["evaluate", "runs/train"], "no such checkpoint: runs/train"),
        (["export", "runs/train"], "no such checkpoint: runs/train"),
    ],
)
def test_bad_input_is_one_line_and_makes_nothing(configs, capsys, arguments, message):
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert message in error
    assert not (configs / "runs").exists()
