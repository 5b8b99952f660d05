"""``nastc bench``: each method with each seed, resumed, with failures listed, tables and pictures of what is there."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from nni_nastc.bench.cost import count_multiply_adds, measure_latencies
from nni_nastc.bench.plan import Run, find_run, plan_runs, resolve, train_config
from nni_nastc.bench.published import PUBLISHED, published_score
from nni_nastc.bench.run import execute, peak_resident_bytes, start
from nni_nastc.bench.runner import BenchProgress, run_bench
from nni_nastc.cli.main import main
from nni_nastc.config import BenchConfig, load_config
from nni_nastc.errors import NastcError, RunFolderError
from nni_nastc.genotype import Genotype
from nni_nastc.models import NetworkSpec, build_model, find_network
from tests.toy import ToySet

METHODS = ["pool", "sep_conv_3"]


def bench_values(toy: ToySet, output: Path, **changes: Any) -> dict[str, Any]:
    values = {"output": str(output), "data": toy.data(), "methods": METHODS, "seeds": 2, "num_layers": 2}
    values |= {"num_groups": 2, "epochs": 1, "draws": 2, "trainer": {"accelerator": "cpu"}}
    return values | changes


def bench_config(toy: ToySet, output: Path, **changes: Any) -> BenchConfig:
    return load_config(BenchConfig, None, defaults=bench_values(toy, output, **changes))


def in_this_process(config: BenchConfig, run: Run) -> str:
    try:
        execute(config, run)
    except NastcError as problem:
        return str(problem)
    return ""


@pytest.fixture(scope="module")
def labelled_twice(toy: ToySet, tmp_path_factory: pytest.TempPathFactory) -> ToySet:
    """The toy with its activities as the first of two labels: multi-label."""
    content = json.loads(toy.annotations.read_text())
    for number, video in enumerate(content["videos"].values()):
        video.pop("segments", None)
        video["labels"] = sorted({video["labels"][0], content["classes"][number % 4]})
    path = tmp_path_factory.mktemp("multi") / "annotations.json"
    path.write_text(json.dumps(content | {"task": "multi-label"}))
    return ToySet(toy.store, path)


@pytest.fixture(scope="module")
def done(labelled_twice: ToySet, tmp_path_factory: pytest.TempPathFactory) -> BenchConfig:
    """A bench of two methods, two T and two seeds."""
    config = bench_config(labelled_twice, tmp_path_factory.mktemp("bench") / "out", timesteps=[4, 8])
    report = run_bench(config, start=in_this_process)
    assert report.failed == {}
    return resolve(config)


def test_every_run_is_a_training_on_all_with_its_evaluation(done):
    runs = plan_runs(done)
    assert [(run.seed, run.timesteps, run.method) for run in runs[:3]] == [
        (0, 4, "pool"), (0, 4, "sep_conv_3"), (0, 8, "pool"),
    ]  # fmt: skip
    assert len(runs) == len({run.folder for run in runs}) == 8
    for run in runs:
        split = json.loads((run.folder / "split.json").read_text())
        assert (len(split["train"]), split["held_out"]) == (24, [])
        evaluation = json.loads((run.folder / "evaluation" / "metrics.json").read_text())
        assert (evaluation["subset"], evaluation["draws"], evaluation["videos"]) == ("test", 2, 8)
        assert run.result()["score"] == evaluation["mAP"]


def test_the_table(done):
    rows = json.loads((done.output / "table.json").read_text())["rows"]
    assert [(row["method"], row["timesteps"]) for row in rows] == [
        ("pool", 4), ("sep_conv_3", 4), ("pool", 8), ("sep_conv_3", 8),
    ]  # fmt: skip
    for row in rows:
        results = [find_run(done, row["method"], row["timesteps"], seed).result() for seed in (0, 1)]
        scores = [result["score"] for result in results]
        assert row["score"] == pytest.approx(np.mean(scores))
        assert row["deviation"] == pytest.approx(abs(scores[0] - scores[1]) / 2**0.5)
        assert row["train_seconds"] == pytest.approx(np.mean([result["train_seconds"] for result in results]))
        network = build_model(NetworkSpec(find_network(row["method"]), 4, 8, 2, 2))
        assert row["parameters"] == sum(p.numel() for p in network.parameters())
        assert row["peak_bytes"] > 50e6, "the whole process counts"
        assert row["latency_s"] > 0
        assert row["published"] is None
    with open(done.output / "table.csv", newline="") as stream:
        assert [row["method"] for row in csv.DictReader(stream)] == [row["method"] for row in rows]
    text = (done.output / "table.md").read_text()
    assert f"| {100 * rows[0]['score']:.2f} |" in text.replace("  ", " ").replace("  ", " ")
    assert "mAP of 8 test videos" in text
    assert "published, not measured here" in text


def test_the_comparisons(done):
    rows = json.loads((done.output / "comparisons.json").read_text())["rows"]
    table = json.loads((done.output / "table.json").read_text())["rows"]
    scores = {(row["method"], row["timesteps"]): row["score"] for row in table}
    assert [(row["timesteps"], row["first"], row["second"]) for row in rows] == [
        (4, "pool", "sep_conv_3"), (8, "pool", "sep_conv_3"),
    ]  # fmt: skip
    for row in rows:
        expected = scores["pool", row["timesteps"]] - scores["sep_conv_3", row["timesteps"]]
        assert row["difference"] == pytest.approx(expected)
        assert row["low"] <= row["difference"] <= row["high"]
        assert row["p_holm"] >= row["p"]
        assert row["significant"] == (row["p_holm"] < 0.05)


def test_the_pictures(done):
    pictures = {path.name for path in done.output.glob("*.png")}
    assert pictures == {
        "parameters_T4.png", "parameters_T8.png", "classes_T4.png", "classes_T8.png", "timesteps.png",
    }  # fmt: skip


def test_what_is_finished_is_not_done_again(done):
    def never(config: BenchConfig, run: Run) -> str:
        raise AssertionError(f"{run.name} is finished")

    assert run_bench(done, start=never).failed == {}


def test_a_bench_with_another_configuration_is_refused(done):
    before = (done.output / "table.json").read_bytes()
    with pytest.raises(RunFolderError, match="another run.*epochs"):
        run_bench(done.model_copy(update={"epochs": 3}), start=in_this_process)
    assert (done.output / "table.json").read_bytes() == before


def test_a_failed_run_does_not_stop_the_others(toy, tmp_path, capsys):
    class Failures(BenchProgress):
        told: list[str] = []

        def on_run_end(self, run: Run, reason: str) -> None:
            self.told += [run.name] if reason else []

    def one_fails(config: BenchConfig, run: Run) -> str:
        return "out of luck" if (run.method, run.seed) == ("pool", 1) else in_this_process(config, run)

    config = bench_config(toy, tmp_path / "bench")
    report = run_bench(config, start=one_fails, progress=Failures())
    assert report.failed == {"pool, T = 8, seed 1": "out of luck"}
    assert Failures.told == ["pool, T = 8, seed 1"]
    assert json.loads((tmp_path / "bench" / "failures.json").read_text()) == report.failed
    pool, cell = json.loads((tmp_path / "bench" / "table.json").read_text())["rows"]
    assert (pool["runs"], pool["deviation"], cell["runs"]) == (1, None, 2)
    assert json.loads((tmp_path / "bench" / "comparisons.json").read_text())["rows"] == []
    assert run_bench(config, start=in_this_process).failed == {}, "the next time it is done again"
    assert len(json.loads((tmp_path / "bench" / "comparisons.json").read_text())["rows"]) == 1


def test_a_cell_that_changes_is_refused(toy, tmp_path):
    Genotype.random(1).to_json(tmp_path / "cell.json")
    config = bench_config(toy, tmp_path / "bench", methods=["pool", str(tmp_path / "cell.json")])
    run_bench(config, start=lambda config, run: "not today")
    Genotype.random(2).to_json(tmp_path / "cell.json")
    with pytest.raises(RunFolderError, match=r"the cell of .*cell\.json is another one"):
        run_bench(config, start=in_this_process)


def test_learning_rates_and_layers_of_single_methods(toy, tmp_path):
    config = bench_config(
        toy, tmp_path, timesteps=[8, 16], layers_at={16: 3}, learning_rates={"pool": 0.5}, optimizer={"eps": 0.001}
    )
    configs = {(r.method, r.timesteps): train_config(config, r) for r in plan_runs(config) if r.seed == 1}
    assert {key: c.optimizer.learning_rate for key, c in configs.items()} == {
        ("pool", 8): 0.5, ("pool", 16): 0.5, ("sep_conv_3", 8): 0.01, ("sep_conv_3", 16): 0.01,
    }  # fmt: skip
    assert {key[1]: c.num_layers for key, c in configs.items()} == {8: 2, 16: 3}
    assert all(c.final and c.seed == 1 and c.optimizer.eps == 0.001 for c in configs.values())
    assert {key: c.data.timesteps for key, c in configs.items()} == {key: key[1] for key in configs}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": 1}, "seeds: a deviation over seeds needs at least 2 of them, got 1"),
        ({"seeds": [5]}, "a deviation over seeds needs at least 2"),
        ({"methods": ["pool", "pool"]}, "methods: each may be there once only, pool is there again"),
        ({"methods": []}, "methods: tuple should have at least 1 item"),
        ({"against": "pol"}, r"against must be one of methods, 'pol' is not there \(did you mean pool\?\)"),
        ({"learning_rates": {"lsttm": 1, "lstm": 1}}, "learning_rates: no network is called 'lsttm'.*mean lstm"),
        ({"published": "kinetics"}, "published: input should be 'charades'.*got 'kinetics'"),
        ({"method": ["pool"]}, r"unknown key method \(did you mean methods\?\)"),
        ({"methods": ["pool", "timecption"]}, "timecption: no network is called.*did you mean timeception"),
        ({"methods": ["pool", "videograph"]}, "videograph: VideoGraph takes T of 9 and more.*got T = 8"),
        ({"timesteps": [8, 6], "methods": ["trn", "timeception"]}, "timeception: T must be divisible.*6"),
        ({"methods": ["a/b.json", "a-b.json"]}, "one folder name a-b.json"),
        ({"trainer": {"devices": 2}}, "takes one device, got trainer.devices=2"),
    ],
)
def test_refused_before_anything_starts(toy, tmp_path, changes, message):
    with pytest.raises(NastcError, match=message):
        run_bench(bench_config(toy, tmp_path / "bench", **changes), start=in_this_process)
    assert not (tmp_path / "bench").exists()


def test_the_command(toy, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("nni_nastc.bench.runner.start_process", in_this_process)
    file = tmp_path / "bench.yaml"
    file.write_text(yaml.safe_dump(bench_values(toy, tmp_path / "out", published="breakfast-activities")))
    assert main(["bench", str(file), "draws=1"]) == 0
    out = capsys.readouterr().out
    assert "58.61" in out, "published: pooling"
    assert "71.89" not in out, "sep_conv_3 is a control"
    assert "first - second" in out
    assert main(["bench", "run", str(file), "draws=3"]) == 2
    assert "other values of draws" in capsys.readouterr().err
    assert main(["bench", str(file), "methods=[pol]", "output=elsewhere"]) == 2
    assert "did you mean pool?" in capsys.readouterr().err


def test_multiply_adds_are_those_of_the_formula():
    channels, classes, timesteps = 64, 10, 16
    head = channels * 512 + 512 * classes
    assert count_multiply_adds(NetworkSpec("pool", classes, channels), (channels, 3, 3), timesteps) == head
    with_one_layer = NetworkSpec("timeception", classes, channels, 1, 4)
    group, places = channels // 4, timesteps * 9
    width = int(1.25 * channels / (5 * 4))
    layer = 4 * places * (5 * group * width + (3 + 5 + 7) * width)
    head = 4 * 5 * width * 512 + 512 * classes
    assert count_multiply_adds(with_one_layer, (channels, 3, 3), timesteps) == layer + head


def test_latencies_are_measured_in_turn():
    order = []

    class Noting(torch.nn.Module):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            order.append(self.name)
            assert not torch.is_grad_enabled()
            assert not self.training
            return x

    networks = {name: (Noting(name), torch.ones(1)) for name in "ab"}
    latencies = measure_latencies(networks, torch.device("cpu"), rounds=3)
    assert order == ["a", "b"] * 5, "two rounds to warm up"
    assert all(latency.median_s > 0 <= latency.spread_s for latency in latencies.values())


@pytest.mark.parametrize(
    ("dataset", "backbone", "name", "timesteps", "expected"),
    [
        ("charades", "i3d", "runs/search", 128, 0.393),
        ("charades", "i3d", "runs/search", 48, None),
        ("charades", "i3d", "timeception", 64, 0.355),
        ("charades", "i3d", "pool", 64, 0.329),
        ("charades", "resnet152", "pool", 64, 0.228),
        ("multithumos", "imported", "timeception_dilated", 128, 0.7452),
        ("multithumos", "resnet152", "pool", 128, None),
        ("breakfast-unit-actions", "i3d", "sep_conv_3", 64, None),
        ("breakfast-unit-actions", "i3d", "random_cell:3", 64, None),
        (None, "i3d", "pool", 64, None),
    ],
)
def test_published_numbers(dataset, backbone, name, timesteps, expected):
    network = Genotype.random(0) if name.startswith(("runs", "random", "sep")) else name
    value = published_score(dataset, backbone, name, network, timesteps)
    assert value == (None if expected is None else pytest.approx(expected))


def test_datasets_with_published_numbers_are_those_of_the_configuration():
    (choices,) = [a for a in BenchConfig.model_fields["published"].annotation.__args__ if a is not type(None)]
    assert set(PUBLISHED) == set(choices.__args__)


@pytest.mark.slow
def test_peak_memory_is_that_of_this_process_alone():
    """A child of a large process starts small; ru_maxrss would be the parent's."""
    large = np.ones(1_200_000_000, dtype=np.uint8)
    code = "from nni_nastc.bench.run import peak_resident_bytes; print(peak_resident_bytes())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, timeout=120)
    assert peak_resident_bytes() > large.nbytes > int(done.stdout) > 50e6


@pytest.mark.slow
def test_a_killed_bench_ends_its_run_and_goes_on(toy, tmp_path):
    """In processes of their own; what comes out is what comes of a bench that nobody killed."""
    values = bench_values(toy, tmp_path / "bench", methods=["pool"], epochs=200)
    (tmp_path / "bench.yaml").write_text(yaml.safe_dump(values))
    config = resolve(load_config(BenchConfig, tmp_path / "bench.yaml"))
    first, second = plan_runs(config)
    bench = subprocess.Popen([sys.executable, "-m", "nni_nastc", "bench", str(tmp_path / "bench.yaml")])
    wait_for(lambda: (first.folder / "last.ckpt").is_file())
    bench.kill()
    bench.wait()
    time.sleep(1)
    assert not first.finished, "more epochs are needed for this test"
    assert run_bench(config).failed == {}
    history = json.loads((first.folder / "history.json").read_text())
    assert len(history["epochs"]) == 200
    whole = bench_config(toy, tmp_path / "whole", methods=["pool"], epochs=200)
    execute(whole, find_run(whole, "pool", 8, 0))
    folders = (first.folder, find_run(whole, "pool", 8, 0).folder)
    killed, unbroken = ((folder / "evaluation" / "predictions.txt").read_text() for folder in folders)
    assert killed == unbroken
    log = second.folder.with_name(f"{second.folder.name}.log")
    assert second.finished
    assert log.is_file()


def test_why_a_process_failed_is_its_last_line(toy, tmp_path):
    config = resolve(bench_config(toy, tmp_path / "bench"))
    run = find_run(config, "pool", 8, 0)
    assert "no such configuration file" in start(config, run), "the bench has not begun"


def wait_for(condition: Callable[[], bool], seconds: float = 90) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing came"
        time.sleep(0.02)
