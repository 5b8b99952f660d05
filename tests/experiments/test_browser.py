"""NNI's web page in a real browser: what it shows of trials that have ended, and of one that runs."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from html.parser import HTMLParser
from typing import Any

import pytest
import yaml

from nni_nastc.experiments.server import Manager, request
from tests.experiments.managers import ROOT, environment_of, managers_in
from tests.toy import ToySet


class Page(HTMLParser):
    """A page as Chromium has rendered it: its words, and the rows of its table by the names of the columns."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.rows: list[dict[str, str]] = []
        self._column = ""
        self._hidden = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self._hidden = tag in ("script", "style") or "hidden" in found
        if (found.get("id") or "").startswith("row"):
            self.rows.append({})
        if self.rows and found.get("role") == "gridcell":
            self._column = found["data-automation-key"] or ""
            self.rows[-1][self._column] = ""

    def handle_endtag(self, tag: str) -> None:
        self._hidden = False

    def handle_data(self, data: str) -> None:
        word = re.sub("[\ue000-\uf8ff]", "", data).strip()  # without the page's icons, which are letters of its own
        if self._hidden or not word:
            return
        self.words.append(word)
        if self._column:
            self.rows[-1][self._column] += word

    def after(self, word: str) -> str:
        return self.words[self.words.index(word) + 1]

    def before(self, word: str) -> str:
        return self.words[self.words.index(word) - 1]


@pytest.fixture
def chromium(tmp_path) -> list[str]:
    """Return the command of a browser that keeps its things here; only CI insists on one."""
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        message = "no chromium is on the PATH: apt-get install chromium"
        pytest.fail(message) if os.environ.get("CI") == "true" else pytest.skip(message)
    # Its sandbox needs rights that containers do not have; what it opens is our own page.
    options = ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1900,1500")
    return [program, *options, f"--user-data-dir={tmp_path / 'chromium'}", "--virtual-time-budget=15000"]


def browse(command: Sequence[str], *arguments: str) -> str:
    return subprocess.run([*command, *arguments], capture_output=True, text=True, check=True, timeout=120).stdout


@pytest.fixture
def manager(tmp_path) -> Iterator[Manager]:
    """The shipped searches on a small store: two have ended, the third has reported an epoch and runs on and on."""
    toy = ToySet.make(tmp_path, videos=48, channels=16)
    values = yaml.safe_load((ROOT / "examples" / "nnictl" / "search_trials.yml").read_text())
    values |= {
        "trialCommand": "python -m nni_nastc.search.trial search space=nastc_small num_layers=1 "
        f"data.store={toy.store} data.annotations={toy.annotations} data.timesteps=8 data.batch_size=6 "
        "optimizer.learning_rate=0.1",
        "tuner": {"name": "GridSearch"},
        "searchSpace": {"epochs": {"_type": "choice", "_value": [1, 10, 100_000]}},
        "maxTrialNumber": 3,
    }
    (tmp_path / "searches.yml").write_text(yaml.safe_dump(values))
    command = [sys.executable, "-m", "nni_nastc", "launch", "searches.yml"]
    with (tmp_path / "launch.log").open("w") as log:
        process = subprocess.Popen(command, cwd=tmp_path, env=environment_of(tmp_path), stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 240
        while "/oview" not in (said := (tmp_path / "launch.log").read_text()) or not is_ready(*managers_in(tmp_path)):
            assert process.poll() is None, said
            assert time.monotonic() < deadline, "the trials do not get ready"
            time.sleep(0.5)
        yield managers_in(tmp_path)[0]
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(timeout=90)
    assert not managers_in(tmp_path)


def ask(manager: Manager, path: str) -> Any:
    return json.loads(request(manager.port, f"{manager.prefix}/api/v1/nni/{path}")[1])


def is_ready(manager: Manager) -> bool:
    states = {job["trialJobId"]: job["status"] for job in ask(manager, "trial-jobs")}
    reported = {metric["trialJobId"] for metric in ask(manager, "metric-data")}
    return sorted(states.values()) == ["RUNNING", "SUCCEEDED", "SUCCEEDED"] and reported == states.keys()


def score_of(job: dict[str, Any]) -> float:
    return json.loads(json.loads(job["finalMetricData"][-1]["data"]))["default"]


@pytest.mark.slow
def test_the_page_shows_trials_scores_and_the_best(chromium, manager, tmp_path):
    jobs = {job["trialJobId"]: job for job in ask(manager, "trial-jobs")}
    scores = {name: score_of(job) for name, job in jobs.items() if job["status"] == "SUCCEEDED"}
    for name, score in scores.items():
        (history,) = manager.folder.glob(f"environments/*/trials/{name}/run/history.json")
        assert json.loads(history.read_text())["epochs"][-1]["val_score"] == score
    assert len(set(scores.values())) == 2, "equal scores would not show which is the best"
    ranked = sorted(scores, key=lambda name: scores[name], reverse=True)

    overview = Page(browse(chromium, "--dump-dom", manager.address))
    assert "Top trials" in overview.words, "the page was not rendered"
    assert manager.experiment in overview.words
    assert "Temp-DARTS searches" in overview.words
    assert overview.before("Status") == ask(manager, "check-status")["status"]
    assert float(overview.before("Best metric")) == pytest.approx(scores[ranked[0]], abs=1e-6)
    assert (overview.after("Succeeded"), overview.after("Running"), overview.after("Failed")) == ("2", "1", "0")
    assert [row["id"] for row in overview.rows] == ranked, "best first"
    for row in overview.rows:
        assert row["status"] == "SUCCEEDED"
        assert float(row["accuracy"]) == pytest.approx(scores[row["id"]], abs=1e-6)
        assert int(row["sequenceId"]) == jobs[row["id"]]["sequenceId"]

    detail = Page(browse(chromium, "--dump-dom", manager.address.replace("oview", "detail")))
    shown = {row["id"]: (row["status"], row["latestAccuracy"].partition(" ")) for row in detail.rows}
    assert shown.keys() == jobs.keys()
    for name, (status, (value, _, kind)) in shown.items():
        assert status == jobs[name]["status"]
        if status == "SUCCEEDED":
            assert kind == "(FINAL)"
            assert float(value) == pytest.approx(scores[name], abs=1e-6)
        else:
            assert kind == "(LATEST)", "a running search shows its newest epoch"
            assert 0 <= float(value) <= 1

    browse(chromium, f"--screenshot={tmp_path / 'page.png'}", manager.address)
    assert (tmp_path / "page.png").stat().st_size > 20_000, "an empty page"
