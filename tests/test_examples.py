"""The shipped configurations: all are valid, say what to run, and run on small files in the official formats."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from nni_nastc.cli.main import build_parser, main
from nni_nastc.config import (
    BenchConfig,
    EvaluateConfig,
    PredictionsConfig,
    SearchConfig,
    Section,
    TrainConfig,
    load_config,
)
from nni_nastc.data.annotations import load_annotations
from nni_nastc.data.breakfast import UNIT_ACTIONS
from nni_nastc.features.store import FeatureStore, StoreSettings
from tests.data import test_charades, test_multithumos
from tests.videos import TinyBackbone, write_video

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
FILES = sorted(EXAMPLES.rglob("*.yaml"))
SCHEMAS: dict[str, type[Section]] = {
    "search": SearchConfig, "train": TrainConfig, "evaluate": EvaluateConfig, "bench": BenchConfig,
}  # fmt: skip
WINDOWS = 40
CHANNELS = 8


def name_of(path: Path) -> str:
    return str(path.relative_to(EXAMPLES).with_suffix(""))


def header(path: Path) -> list[str]:
    """Return the comments that a file starts with."""
    lines = path.read_text(encoding="utf-8").splitlines()
    count = next(number for number, line in enumerate(lines) if not line.startswith("#"))
    return [line[1:].strip() for line in lines[:count]]


def commands(path: Path) -> list[list[str]]:
    """Return the commands that a header names, of those that are one line."""
    names = "data|extract|search|train|evaluate|bench|demo"
    found = [re.search(rf"nastc ((?:{names}) .*?)(?:   | \(|\)|$)", line) for line in header(path)]
    return [shlex.split(match[1]) for match in found if match]


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_every_file_is_valid(path):
    config = load_config(SCHEMAS[path.stem], path)
    assert len(header(path)) >= 4, "what it is, what to have on disk, what to run"
    assert [path.stem, str(path.relative_to(ROOT))] in [command[:2] for command in commands(path)]
    assert getattr(config, "seed", 0) == 0


@pytest.mark.parametrize(
    ("path", "command"), [(path, command) for path in FILES for command in commands(path)],
    ids=lambda value: " ".join(value) if isinstance(value, list) else name_of(value),
)  # fmt: skip
def test_the_commands_in_the_headers_are_right(path, command):
    arguments = build_parser().parse_args(command)
    given = next((part for part in command if part.endswith(".yaml")), None)
    if given is not None:
        schema = SCHEMAS[Path(given).stem]
        assert SCHEMAS[command[0]] is schema
        load_config(schema, ROOT / given, arguments.overrides)
    elif getattr(arguments, "predictions", None):
        overrides = [part for part in (arguments.checkpoint, *arguments.overrides) if part]
        load_config(PredictionsConfig, None, overrides, defaults={"predictions": arguments.predictions})


@pytest.mark.parametrize(
    ("name", "timesteps", "layers"),
    [
        ("charades", 128, 4),
        ("multithumos", 128, 4),
        ("breakfast/activities", 64, 3),
        ("breakfast/unit-actions", 64, 3),
    ],
)
def test_the_papers_settings(name, timesteps, layers):
    folder = EXAMPLES / name
    search = load_config(SearchConfig, folder / "search.yaml")
    assert (search.num_layers, search.data.timesteps, search.data.batch_size, search.epochs) == (3, 32, 8, 50)
    train = load_config(TrainConfig, folder / "train.yaml")
    assert (train.num_layers, train.data.timesteps) == (layers, timesteps)
    assert (train.data.batch_size, train.epochs, train.final) == (18, 300, True)
    assert (train.optimizer.learning_rate, train.optimizer.eps) == (0.01, 1e-4)
    assert train.genotype == "runs/charades/search", "the paper's cell is that of Charades"
    evaluation = load_config(EvaluateConfig, folder / "evaluate.yaml")
    assert (evaluation.draws, evaluation.checkpoint) == (10, train.output)
    for part in (search.data, evaluation):
        assert [part.store, part.annotations, part.dataset, part.target] == [
            train.data.store, train.data.annotations, train.data.dataset, train.data.target,
        ]  # fmt: skip


def test_charades_with_fewer_superframes():
    shown = " ".join(header(EXAMPLES / "charades" / "train.yaml"))
    for timesteps in (32, 64):
        assert f"data.timesteps={timesteps} num_layers=3" in shown


def small_charades(folder: Path) -> None:
    folder.mkdir(parents=True)
    rows = [f"V{n:04d},S{n},Hall,none,c{n % 3:03d} 0 5;c156 1 4,20.00" for n in range(14)]
    test_charades.write(folder, train=[*rows[:10], "EMPTY,S1,Hall,none,,9.00"], test=rows[10:])


def small_multithumos(folder: Path) -> None:
    folder.mkdir(parents=True)
    several = "".join(f"video_validation_{n:07d} 1 2\n" for n in range(10))
    test_multithumos.write(folder, Sport3=several, Sport5="video_test_0000001 1 2\nvideo_test_0000002 3 4\n")


def small_breakfast(folder: Path) -> None:
    for number in (*range(3, 13), 47, 48, 49):
        activity = ("milk", "tea")[number % 2]
        place = folder / f"P{number:02d}" / "cam01" / f"P{number:02d}_{activity}.avi"
        place.parent.mkdir(parents=True)
        place.touch()
        action = UNIT_ACTIONS[5 + number % 3]
        place.with_name(f"{place.name}.labels").write_text(f"1-30 SIL\n31-60 {action}\n")
    stereo = folder / "P04" / "stereo"
    stereo.mkdir()
    for channel in (0, 1):
        (stereo / f"P04_milk_ch{channel}.avi").touch()
        (stereo / f"P04_milk_ch{channel}.avi.labels").write_text("1-30 SIL\n31-60 pour_milk\n")


SMALL: dict[str, Callable[[Path], None]] = {
    "charades": small_charades,
    "multithumos": small_multithumos,
    "breakfast": small_breakfast,
}


@pytest.fixture
def at_home(request, tmp_path, monkeypatch) -> Path:
    """A folder where the small files lie where the examples expect the official ones."""
    monkeypatch.chdir(tmp_path)
    SMALL[request.param](tmp_path / "data" / request.param)
    return tmp_path


def make_features(store: Path, ids: list[str]) -> None:
    settings = StoreSettings(weights="none", weights_digest="none", windows="all", pool=1)
    written = FeatureStore.create_or_open(store, settings)
    times = np.arange(WINDOWS)[:, None] + np.array([0.0, 1.0])
    for number, name in enumerate(ids):
        features = np.random.default_rng(number).normal(size=(WINDOWS, CHANNELS, 1, 1)).astype(np.float16)
        written.write(name, features, times, fps=8.0, source=f"{name}.mp4", size_bytes=0)


@pytest.mark.parametrize(
    ("at_home", "name"),
    [
        ("charades", "charades"),
        ("multithumos", "multithumos"),
        ("breakfast", "breakfast/activities"),
        ("breakfast", "breakfast/unit-actions"),
    ],
    indirect=["at_home"],
)
def test_search_train_and_evaluate(at_home, name, capsys):
    """As the headers say, but for one epoch."""
    folder = EXAMPLES / name
    data = load_config(TrainConfig, folder / "train.yaml").data
    annotations = load_annotations(data.annotations, data.target, dataset=data.dataset)
    make_features(data.store, [record.id for record in annotations.records if record.labels])
    search, train, evaluate = (str(folder / f"{command}.yaml") for command in ("search", "train", "evaluate"))
    assert main(["search", search, "epochs=1", "trainer.accelerator=cpu"]) == 0
    genotype = f"runs/{name}/search"
    assert main(["train", train, "--genotype", genotype, "epochs=1", "trainer.accelerator=cpu"]) == 0
    assert main(["evaluate", evaluate, "device=cpu"]) == 0, capsys.readouterr().err
    results = Path("runs") / name / "train" / "evaluation"
    metrics = json.loads((results / "metrics.json").read_text())
    test = annotations.of("test")
    assert metrics["videos"] == len(test)
    score = "accuracy" if name == "breakfast/activities" else "mAP"
    assert 0 <= metrics[score] <= 1
    assert ("mAP_without_SIL" in metrics) == (name == "breakfast/unit-actions")
    given = [f"annotations={data.annotations}", f"dataset={data.dataset}"]
    given += [f"target={data.target}"] if data.target else []
    assert main(["evaluate", "--predictions", str(results / "predictions.txt"), *given, "output=again"]) == 0
    assert json.loads(Path("again/metrics.json").read_text())[score] == metrics[score]


@pytest.mark.parametrize(
    ("at_home", "name", "videos"),
    [
        ("charades", "charades", "data/charades/Charades_v1_480"),
        ("multithumos", "multithumos", "data/multithumos/videos"),
        ("breakfast", "breakfast/activities", "data/breakfast"),
    ],
    indirect=["at_home"],
)
def test_extraction_gives_the_store_the_names_of_the_annotations(at_home, name, videos, monkeypatch, capsys):
    """With videos, that are all one, at the places of the official downloads; and a tiny backbone."""
    monkeypatch.setattr("nni_nastc.features.weights.load_i3d", lambda weights: TinyBackbone())
    data = load_config(SearchConfig, EXAMPLES / name / "search.yaml").data
    records = load_annotations(data.annotations, data.target, dataset=data.dataset).records
    one = write_video(at_home / "one.mp4", 16)
    for other in ("not_annotated.mp4", "P03/cam01/P03_juice.avi", *(record.file for record in records)):
        place = at_home / videos / other
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(one, place)
    (extraction,) = [c for c in commands(EXAMPLES / name / "search.yaml") if c[0] == "extract" and "--dry-run" not in c]
    assert main([*extraction, "--short-side", "32", "--crop", "32"]) == 0, capsys.readouterr().err
    assert set(FeatureStore.open(data.store).videos) == {record.id for record in records}
    assert main(["data", "check", str(data.annotations), "--dataset", data.dataset, "--store", str(data.store)]) == 0
    assert "\n0 missing in the store\n0 in the store without annotation" in capsys.readouterr().out
