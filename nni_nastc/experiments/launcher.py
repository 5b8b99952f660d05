"""An experiment of NNI from its start to its end, closed to others, and gone afterwards."""

from __future__ import annotations

import atexit
import getpass
import http.client
import json
import logging
import re
import signal
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nni
from nni.experiment import Experiment, ExperimentConfig

from nni_nastc.errors import ExperimentError
from nni_nastc.experiments.server import (
    closed,
    find_managers,
    page_address,
    random_prefix,
    request,
    require_closed,
    require_idle,
    stop_manager,
)

POLL_SECONDS = 1.0

_OVER = ("DONE", "STOPPED", "ERROR", "NO_MORE_TRIAL", "TUNER_NO_MORE_TRIAL")
_WAITING = ("WAITING", "RUNNING", "UNKNOWN")


@dataclass(frozen=True)
class Progress:
    """How far an experiment is.

    Attributes
    ----------
    done, failed, running : int
        Trials that have ended with a result, without one, and that have not ended.
    total : int or None
        The most there may be.
    best : float or None
        The highest score so far.
    best_trial : str
        Its trial.
    """

    done: int
    failed: int
    running: int
    total: int | None
    best: float | None
    best_trial: str


@dataclass(frozen=True)
class Running:
    """An experiment that runs.

    Attributes
    ----------
    id : str
        NNI's name of it.
    folder : Path
        Where it keeps everything.
    port : int
        Of the manager.
    prefix : str
        Of all its paths.
    total : int or None
        The most trials there may be.
    """

    id: str
    folder: Path
    port: int
    prefix: str
    total: int | None

    @property
    def address(self) -> str:
        """The address of the web page on this machine."""
        return page_address(self.port, self.prefix)

    @property
    def tunnel(self) -> str:
        """The command that brings the page to another machine."""
        return f"ssh -N -L {self.port}:127.0.0.1:{self.port} {getpass.getuser()}@{socket.gethostname()}"

    def ask(self, path: str) -> Any:
        """Return what the manager answers.

        Raises
        ------
        ExperimentError
            If it is no longer there.
        """
        try:
            status, body = request(self.port, f"{self.prefix}/api/v1/nni/{path}")
        except (OSError, http.client.HTTPException):
            log = self.folder / "log"
            reason = _last_error(log) or "no reason given"
            raise ExperimentError(f"NNI's manager has ended ({reason}); its log is in {log}") from None
        if status != 200:
            raise ExperimentError(f"NNI's manager answers {path} with status {status}; its log is in {self.folder}/log")
        return json.loads(body)

    def watch(self) -> Iterator[Progress]:
        """Yield the progress every second until no trial runs and none will.

        Raises
        ------
        ExperimentError
            If the experiment fails, with NNI's reason.
        """
        while True:
            state = self.ask("check-status")
            jobs = self.ask("trial-jobs")
            self._fetch_logs(jobs)
            progress = _progress(jobs, self.total)
            yield progress
            if state["status"] == "ERROR":
                raise ExperimentError(f"NNI ended the experiment ({_reason(state)}); the log is in {self.folder}/log")
            if state["status"] in _OVER and not progress.running:
                return
            time.sleep(POLL_SECONDS)

    def _fetch_logs(self, jobs: Sequence[dict[str, Any]]) -> None:
        """Let the manager copy the logs of failed trials on other machines, which say why."""
        for job in jobs:
            fetched = self.folder / "trials" / job["trialJobId"]
            elsewhere = not job.get("logPath", "/").startswith("/")
            if job["status"] == "FAILED" and elsewhere and not fetched.exists():
                with suppress(OSError, http.client.HTTPException):
                    request(self.port, f"{self.prefix}/api/v1/nni/trial-file/{fetched.name}/stderr")


@contextmanager
def running(config: ExperimentConfig, port: int, *, open_to_network: bool = False) -> Iterator[Running]:
    """Start an experiment for a block; when it is left, whatever the reason, the manager and the trials end.

    Parameters
    ----------
    config : ExperimentConfig
        From :func:`nni_nastc.experiments.files.load_experiment`.
    port : int
        For the web page.
    open_to_network : bool
        Whether other machines reach it.

    Yields
    ------
    Running
        The experiment.

    Raises
    ------
    ExperimentError
        If it does not start, or something of it cannot be ended.
    """
    require_idle(port)
    nni.silence_stdout()
    logging.getLogger("nni").propagate = False  # it is told here, and NNI's own log is in the experiment's folder
    experiment = Experiment(config)
    experiment.url_prefix = random_prefix()
    folder = Path(config.experiment_working_directory, experiment.id)
    try:
        with closed(tied=True, open_to_network=open_to_network):
            _start(experiment, port, folder)
        yield Running(experiment.id, folder, port, experiment.url_prefix, config.max_trial_number)
    finally:
        atexit.unregister(experiment.stop)
        with _uninterrupted():
            for manager in find_managers(experiment.id):
                stop_manager(manager)
            require_closed(port)


def _start(experiment: Experiment, port: int, folder: Path) -> None:
    try:
        experiment.start(port)
    except (RuntimeError, OSError, ValueError) as problem:
        log = folder / "log"
        reason = _last_error(log) or " ".join(str(problem).split())[:200]
        raise ExperimentError(f"NNI could not start the experiment ({reason}); its log is in {log}") from None


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Let nobody interrupt the end of an experiment: a second Ctrl-C would leave its trials running."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _progress(jobs: Sequence[dict[str, Any]], total: int | None) -> Progress:
    """Count NNI's trial jobs."""
    scores = {job["trialJobId"]: score for job in jobs if (score := _score(job)) is not None}
    states = [job["status"] for job in jobs]
    best = max(scores, key=lambda name: scores[name], default="")
    done = states.count("SUCCEEDED")
    left = sum(state in _WAITING for state in states)
    return Progress(done, len(states) - done - left, left, total, scores.get(best), best)


def _score(job: dict[str, Any]) -> float | None:
    """Return the final default metric of a job."""
    with suppress(KeyError, IndexError, ValueError, TypeError):
        value = json.loads(json.loads(job["finalMetricData"][-1]["data"]))
        return float(value["default"] if isinstance(value, dict) else value)
    return None


def _last_error(log: Path) -> str:
    """Return the first line of the last error in a manager's log."""
    text = "".join(path.read_text(encoding="utf-8", errors="replace") for path in log.glob("nnimanager.log"))
    errors = re.findall(r"^\[[^]]*\] (?:ERROR|CRITICAL) \(\w+\) (.*)$", text, flags=re.MULTILINE)
    return re.sub(r"^Training srevice initialize failed: \w*Error: ", "", errors[-1]) if errors else ""


def _reason(state: dict[str, Any]) -> str:
    """Return the last line of NNI's error, which may be a traceback."""
    lines = [line.strip() for error in state.get("errors") or [] for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else "no reason given"
