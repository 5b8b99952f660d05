"""``nastc launch``: from the file to the results; whatever ends it, nothing goes on; wrong input is one line."""

from __future__ import annotations

import csv
import http.client
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
import yaml

from nni_nastc.cli.main import main
from nni_nastc.experiments import server
from nni_nastc.experiments.files import load_experiment
from nni_nastc.experiments.results import read_experiment
from nni_nastc.genotype import Genotype
from tests.experiments.managers import (
    ROOT,
    assert_closed,
    environment_of,
    managers_in,
    only_manager,
    other_addresses,
    processes_in,
)
from tests.toy import ToySet

TRIAL = """
import json, os, pathlib, time
import nni
time.sleep(2 if os.environ["NNI_TRIAL_SEQ_ID"] == "0" else 0)  # the first trial asks last
got = nni.get_next_parameter()
folder = pathlib.Path(os.environ["NNI_OUTPUT_DIR"])
(folder / "got.json").write_text(json.dumps(got))
nni.report_intermediate_result(got["x"] / 100)
time.sleep(SECONDS)
nni.report_final_result({"default": got["x"] / 10, "loss": 1.5})
"""


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """A working folder, also NNI's home; nothing of it may run when the test ends."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    left = managers_in(tmp_path)
    for manager in left:
        server.stop_manager(manager)
    assert not left, "a manager was left running"
    assert not processes_in(tmp_path), "a process was left running"


def write_experiment(folder: Path, seconds: float = 0, **changes: Any) -> Path:
    (folder / "trial.py").write_text(TRIAL.replace("SECONDS", str(seconds)))
    values = {
        "experimentName": "small",
        "trialCommand": "python trial.py",
        "trialCodeDirectory": ".",
        "searchSpace": {"x": {"_type": "choice", "_value": [1, 2, 3, 4, 5]}},
        "trialConcurrency": 2,
        "maxTrialNumber": 2,
        "tuner": {"name": "GridSearch"},
        "trainingService": {"platform": "local"},
    } | changes
    path = folder / "small.yml"
    path.write_text(yaml.safe_dump(values))
    return path


def launch(home: Path, *arguments: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "nni_nastc", "launch", *arguments]
    environment = environment_of(home) | {"PATH": "/usr/bin:/bin"}  # no "python" of ours on it
    environment |= {"http_proxy": "http://127.0.0.1:9", "no_proxy": "example.org"}  # nobody is there
    return subprocess.Popen(
        command, cwd=home, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def wait_for_trials(home: Path, count: int) -> None:
    deadline = time.monotonic() + 90
    while len(list(home.rglob("got.json"))) < count:
        assert time.monotonic() < deadline, "the trials do not start"
        time.sleep(0.1)


@pytest.mark.slow
def test_an_experiment_to_its_end(home):
    port = server.free_port()
    write_experiment(home)
    process = launch(home, "small.yml", "--port", str(port), "--out", "report")
    out, err = process.communicate(timeout=180)
    assert process.returncode == 0, out + err
    address, tunnel = out.splitlines()[:2]
    assert re.fullmatch(rf"experiment \w+: http://127\.0\.0\.1:{port}/[0-9a-f]{{32}}/oview", address)
    assert f"ssh -N -L {port}:127.0.0.1:{port} " in tunnel
    assert "2 of 2 done" in err
    assert "Creating experiment" not in out + err, "NNI's own lines are shown"
    with (home / "report" / "trials.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["status"], row["m:loss"]) for row in rows] == [("SUCCEEDED", "1.5")] * 2
    assert float(rows[0]["score"]) > float(rows[1]["score"])
    for row in rows:
        (got,) = home.rglob(f"trials/{row['id']}/got.json")
        assert json.loads(got.read_text()) == {"x": int(row["p:x"])}
        assert float(row["score"]) == int(row["p:x"]) / 10
    (database,) = home.glob("nni-experiments/[!_]*/db/nni.sqlite")
    assert _parameters_shown(database) == {row["id"]: int(row["p:x"]) for row in rows}, "what the web page shows"
    assert server.is_idle(port)


def _parameters_shown(database: Path) -> dict[str, int]:
    import sqlite3

    with sqlite3.connect(database) as connection:
        rows = connection.execute("select trialJobId, data from TrialJobEvent where data is not null").fetchall()
    return {trial: json.loads(data)["parameters"]["x"] for trial, data in rows}


@pytest.mark.slow
@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGKILL])
def test_nothing_goes_on_after_it(home, ending):
    """Ctrl-C shows what there is so far; after kill -9 the manager and its trials end by themselves."""
    write_experiment(home, seconds=300)
    process = launch(home, "small.yml")
    try:
        wait_for_trials(home, 2)
        with_manager = managers_in(home)
        assert len(with_manager) == 1
        assert_closed(with_manager[0], "NO_MORE_TRIAL")
        process.send_signal(ending)
        out, err = process.communicate(timeout=90)
    finally:
        process.kill()
    if ending == signal.SIGINT:
        assert process.returncode == 130, err
        assert "interrupted" in err
        assert "(" + with_manager[0].experiment + "): 2 trials" in out
        assert err.count("Traceback") == 0
    deadline = time.monotonic() + 30
    while managers_in(home) or processes_in(home):
        assert time.monotonic() < deadline, processes_in(home)
        time.sleep(0.2)
    server.require_closed(with_manager[0].port)
    results = read_experiment(with_manager[0].folder)
    assert len(results.trials) == 2
    assert all(len(trial.curve) == 1 for trial in results.trials)
    assert all(trial.status != "RUNNING" for trial in results.trials)


@pytest.mark.slow
def test_open_is_open_and_warned_of(home):
    write_experiment(home, seconds=300)
    process = launch(home, "small.yml", "--open")
    try:
        wait_for_trials(home, 1)
        (manager,) = managers_in(home)
        for address in other_addresses():
            if ":" not in address:
                status, _ = server.request(manager.port, f"{manager.prefix}/api/v1/nni/check-status", host=address)
                assert status == 200
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=90)
    finally:
        process.kill()
    assert err.startswith("warning: --open lets every machine that reaches this one use NNI's server")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["search_trials", "cell_tuner", "retrain_tuning"])
def test_the_shipped_files_launch_as_they_stand(home, toy: ToySet, name):
    """With the README's line, on a small store in the place of the demo's; until two trials have ended."""
    shutil.copytree(ROOT / "examples" / "nnictl", home / "examples" / "nnictl")
    (home / "search_spaces").mkdir()
    shutil.copy(ROOT / "search_spaces" / "nas_temp_cell.json", home / "search_spaces")
    demo = home / "runs" / "demo"
    shutil.copytree(toy.store, demo / "store")
    shutil.copy(toy.annotations, demo)
    nastc = f"{shlex.quote(sys.executable)} -m nni_nastc"
    script = (
        f'eval "$({nastc} nni-env)" && nnictl create --config examples/nnictl/{name}.yml '
        f"--port {server.free_port()} --url_prefix $NASTC_PREFIX"
    )
    environment = environment_of(home)
    done = subprocess.run(["sh", "-c", script], cwd=home, env=environment, capture_output=True, text=True, check=False)
    with only_manager(home) as manager:
        assert manager, done.stdout + done.stderr
        deadline = time.monotonic() + 240
        while sum(trial.status == "SUCCEEDED" for trial in read_experiment(manager.folder).trials) < 2:
            assert time.monotonic() < deadline, read_experiment(manager.folder)
            time.sleep(1)
        results = read_experiment(manager.folder)
        assert not [trial for trial in results.trials if trial.status == "FAILED"], results
        assert isinstance(results.best.genotype, Genotype)
        assert len(results.best.curve) in (8, 20)
        assert results.best.curve[-1] == results.best.score
        logs = manager.folder / "trials" / results.best.id / "output" / "tensorboard"
        assert list(logs.glob("events.out.tfevents.*")), "where the web page's TensorBoard looks"
        assert_closed(manager)
        if name == "cell_tuner":
            assert addresses_of_tensorboard(manager, results.best.id) == {"127.0.0.1"}


def addresses_of_tensorboard(manager: server.Manager, trial: str) -> set[str]:
    """Start TensorBoard as the button of the web page does, and return where it listens."""
    connection = http.client.HTTPConnection("127.0.0.1", manager.port, timeout=20)
    body, header = json.dumps({"trials": trial}), {"Content-Type": "application/json"}
    connection.request("POST", f"/{manager.prefix}/api/v1/nni/tensorboard", body, header)
    assert connection.getresponse().status == 200
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for process in psutil.Process(manager.pid).children(recursive=True):
            with suppress(psutil.Error):
                listening = [c.laddr.ip for c in process.net_connections() if c.status == psutil.CONN_LISTEN]
                if listening and any("tensorboard" in part for part in process.cmdline()):
                    return set(listening)
        time.sleep(0.2)
    raise AssertionError("no TensorBoard has started")


@pytest.mark.slow
def test_trials_that_miss_the_store_say_so(home):
    shutil.copytree(ROOT / "examples" / "nnictl", home / "examples" / "nnictl")
    process = launch(home, "examples/nnictl/search_trials.yml", "maxTrialNumber=1", "--out", "report")
    out, err = process.communicate(timeout=180)
    assert process.returncode == 2, out + err
    with (home / "report" / "trials.csv").open() as stream:
        (row,) = csv.DictReader(stream)
    assert row["status"] == "FAILED"
    assert row["reason"].startswith(f"trial: data.store is not there: {home}/runs/demo/store; ")
    assert row["reason"].endswith("nastc demo --out runs/demo")
    assert err.splitlines()[-1].endswith(f"none of the 1 trials has a score; the first failed: {row['reason']}")


@pytest.mark.parametrize(
    "tuner",
    [
        {"name": "TPE"},
        {"name": "Random"},
        {"name": "Hyperband", "classArgs": {"optimize_mode": "maximize", "R": 9, "eta": 3}},
    ],
    ids=lambda tuner: tuner["name"],
)
def test_tuners_are_tried_without_a_word(home, capfd, tuner):
    write_experiment(home, tuner=tuner)
    assert load_experiment(home / "small.yml").tuner.name == tuner["name"]
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("changes", "arguments", "message"),
    [
        ({"tuner": {"name": "TPP"}}, [], "tuner.name: unknown 'TPP'"),
        ({"tuner": {"name": "TPP"}}, [], "(did you mean TPE?)"),
        ({"assessor": {"name": "Medianstopp"}}, [], "(did you mean Medianstop?)"),
        ({"maxTrialNumbr": 3}, [], "unknown key maxTrialNumbr (did you mean maxTrialNumber?)"),
        ({"trialConcurrency": "many"}, [], "trial_concurrency ('many')"),
        ({"searchSpace": {"x": {"_type": "choise", "_value": [1]}}}, [], 'unsupported type "choise"'),
        ({"trainingService": {"platform": "locl"}}, [], "small.yml: "),
        ({"trialCodeDirectory": "nowhere"}, [], "nowhere"),
        ({"tuner": "TPE"}, [], "small.yml: "),
        ({"tuner": {}}, [], "small.yml: "),
        ({"tuner": {"name": "TPE", "classArgs": {"optimize": 3}}}, [], "small.yml: tuner TPE: "),
        ({"tuner": {"name": "TPE", "classArgs": {"optimize_mode": "sideways"}}}, [], "small.yml: tuner TPE: "),
        ({"searchSpace": {"x": {"_type": "choice", "_value": []}}}, [], "searchSpace: x is a choice of nothing"),
        ({"trialConcurrency": 0}, [], "trial_concurrency"),
        ({"maxTrialNumber": -1}, [], "max_trial_number"),
        ({"logLevel": "loud"}, [], "log_level"),
        ({"trainingService": [1]}, [], "trainingService must be a mapping, got [1]"),
        ({"trialGpuNumber": 9}, [], "trialGpuNumber is 9, PyTorch can use"),
        ({}, ["trialGpuNumber=9"], "trialGpuNumber is 9, PyTorch can use"),
        ({}, ["maxTrial=9"], "unknown key maxTrial"),
        ({}, ["--port", "80"], "a port is 1024 to 65535, got 80"),
    ],
)
def test_wrong_input_is_one_line_and_starts_nothing(home, capsys, changes, arguments, message):
    write_experiment(home, **changes)
    assert main(["launch", "small.yml", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1, error
    assert not (home / "nni-experiments").exists()


def test_a_port_in_use(home, capsys):
    write_experiment(home)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert main(["launch", "small.yml", "--port", str(taken.getsockname()[1])]) == 2
    assert "is in use; choose another" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "message"),
    [("a: [", "is not YAML"), ("- 1", "must hold keys and values"), ("x: 1", "unknown key x"), (None, "no such")],
)
def test_broken_files(home, capsys, text, message):
    if text:
        (home / "small.yml").write_text(text)
    assert main(["launch", "small.yml"]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_python_is_the_one_that_runs(home):
    for command in ("python trial.py", "python3 trial.py"):
        config = load_experiment(write_experiment(home, trialCommand=command))
        assert config.training_service.trial_command == f"{shlex.quote(sys.executable)} trial.py"
    config = load_experiment(write_experiment(home, trialCommand="pythonic trial.py"))
    assert config.trial_command == "pythonic trial.py"


def test_gpus_that_are_there_are_given(home, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    service = {"platform": "local", "useActiveGpu": False}
    config = load_experiment(write_experiment(home, trialGpuNumber=2, trainingService=service))
    assert config.training_service.trial_gpu_number == 2


def test_a_configuration_of_ours_is_searched(home, toy: ToySet, capsys):
    values = {"output": "found", "data": toy.data(), "space": "nastc_small", "epochs": 5, "num_layers": 1}
    Path("search.yaml").write_text(yaml.safe_dump(values | {"trainer": {"accelerator": "cpu"}}))
    assert main(["launch", "search.yaml", "--open"]) == 2
    assert "--open is for experiment files of NNI" in capsys.readouterr().err
    assert main(["launch", "search.yaml", "epochs=1"]) == 0
    assert Genotype.from_json(Path("found", "genotype.json")).lines[0] in capsys.readouterr().out
    assert os.environ.get("NODE_OPTIONS") is None
