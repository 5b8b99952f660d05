"""NNI's training service as the runner of trials: its node manager starts them and shows them in the web page.

NNI's own ``NasExperiment`` is not used. It sends each network as an object of which the page shows nothing readable,
does not start under a path prefix, and a killed one hangs when it is resumed. What stands here for NNI's tuner is the
process of the search itself: it speaks the manager's tuner protocol, and reads plain JSON only.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

from nni.experiment import Experiment, ExperimentConfig, RunMode, launcher
from nni.experiment.config import AlgorithmConfig, LocalConfig
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from nni_nastc.errors import ExperimentError
from nni_nastc.experiments.server import (
    LOOPBACK,
    closed,
    environment,
    free_port,
    page_address,
    random_prefix,
    require_idle,
)
from nni_nastc.files import make_folder
from nni_nastc.genotype import CELL_LABEL, Genotype
from nni_nastc.search.processes import NNI_FOLDER, stop_orphans, terminable, trial_command, uninterrupted
from nni_nastc.search.trial_engine import Outcome, Trial
from nni_nastc.search.trial_files import TrialFiles
from nni_nastc.session import without_logs

_START_TRIES = 30
_HANDSHAKE_S = 30.0

_REASONS = {
    "SUCCEEDED": "its process ended without a result",
    "FAILED": "its process ended with an error",
    "USER_CANCELED": "it was stopped in the web page",
    "EARLY_STOPPED": "it was stopped in the web page",
    "SYS_CANCELED": "NNI stopped it",
}


class LocalTrials:
    """Trials on this machine, run by NNI. Use it as a context manager: when it is left, nothing keeps running.

    SIGTERM, as batch systems send it when the time is over, leaves it too, as ``SystemExit``.

    Parameters
    ----------
    run : Path
        The folder of the search. What an earlier process of the same search left running is stopped first.
    name : str
        Of the experiment, for the web page.
    strategy : str
        Likewise.
    search_space : mapping
        Name -> choice in NNI's form, for the web page.
    concurrency : int
        Trials at a time.
    gpus : int
        GPUs a trial, 0 or 1.
    trials_per_gpu : int
        Trials that share a GPU.
    port : int or None
        Of the web page; None for a free one.

    Raises
    ------
    ExperimentError
        If the port is in use, or NNI's manager does not start.
    """

    def __init__(
        self,
        run: Path,
        *,
        name: str,
        strategy: str,
        search_space: Mapping[str, Any],
        concurrency: int,
        gpus: int = 0,
        trials_per_gpu: int = 1,
        port: int | None = None,
    ) -> None:
        if port is not None:
            require_idle(port)
        self.run = run
        self.concurrency = concurrency
        self.port = free_port() if port is None else port
        self.prefix = random_prefix()
        self._config = ExperimentConfig(
            experiment_name=name,
            experiment_working_directory=run / NNI_FOLDER,
            search_space=dict(search_space),
            trial_command=trial_command(run),
            trial_code_directory=Path.cwd(),
            trial_concurrency=concurrency,
            trial_gpu_number=gpus,
            tuner=AlgorithmConfig(name=strategy),
            training_service=LocalConfig(
                trial_gpu_number=gpus,
                use_active_gpu=True if gpus else None,
                max_trial_number_per_gpu=trials_per_gpu if gpus else 1,
            ),
        )
        self._ready = False
        self._recovered: set[int] = set()  # trials that NNI starts again by itself
        self._running: set[int] = set()
        self._outcomes: deque[Outcome] = deque()
        self._socket: ClientConnection
        self._stack = ExitStack()

    @property
    def address(self) -> str:
        """The address of the web page."""
        return page_address(self.port, self.prefix)

    @property
    def _channel(self) -> str:
        return f"ws://localhost:{self.port}/{self.prefix}/tuner"

    def __enter__(self) -> LocalTrials:
        """Stop what an earlier process left, start the manager, connect."""
        stop_orphans(self.run)
        with self._stack:
            self._stack.callback(uninterrupted, stop_orphans, self.run)
            self._stack.enter_context(terminable())
            self._start_manager()
            self._socket = self._stack.enter_context(self._connect())
            self._shake_hands()
            self._stack = self._stack.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        """Stop the trials and the manager."""
        self._stack.close()

    def start(self, trial: Trial) -> None:
        """Ask NNI for a job, unless the trial has ended already."""
        files = TrialFiles(self.run, trial.number)
        if outcome := files.outcome():
            self._outcomes.append(outcome)
            return
        self._running.add(trial.number)
        if trial.number not in self._recovered:
            files.prepare(trial.cell)
            parameters = {"trial": trial.number, **cell_parameters(trial.cell)}
            job = {"parameter_id": trial.number, "parameter_source": "algorithm", "parameter_index": 0}
            self._send("TR", json.dumps({**job, "parameters": parameters}))

    def next_outcome(self, timeout_s: float) -> Outcome | None:
        """Wait for a trial to end.

        Raises
        ------
        ExperimentError
            If NNI's manager has ended meanwhile.
        """
        deadline = time.monotonic() + timeout_s
        while not self._outcomes:
            left = deadline - time.monotonic()
            try:
                self._receive(json.loads(self._socket.recv(timeout=max(left, 0.0))))
            except TimeoutError:
                if left <= 0:
                    return None
            except ConnectionClosed:
                raise self._ended() from None
        return self._outcomes.popleft()

    def _start_manager(self) -> None:
        """Start NNI's node manager, with the trials of earlier processes of this search if it can read them."""
        databases = (self.run / NNI_FOLDER).glob("[!_]*/db/nni.sqlite")  # _latest is a link to one of them
        earlier = sorted(databases, key=lambda path: path.stat().st_mtime)
        if earlier:
            with suppress(ExperimentError):
                return self._launch(Experiment(self._config, earlier[-1].parent.parent.name), "resume")
        self._launch(Experiment(self._config), "create")

    def _launch(self, experiment: Experiment, action: Literal["create", "resume"]) -> None:
        log = self.run / NNI_FOLDER / experiment.id / "log"
        make_folder(log)
        experiment.url_prefix = self.prefix
        experiment._action = action
        with closed(tied=True), environment(_threads(self.concurrency)), _patient_launcher():
            try:
                experiment._start_nni_manager(self.port, False, RunMode.Detach, self._channel, ["nastc"])
            except Exception as problem:  # whatever requests, NNI or the system make of it
                reason = str(problem).partition("\n")[0]
                raise ExperimentError(f"NNI's manager does not start ({reason}); its log is in {log}") from problem

    def _connect(self) -> ClientConnection:
        """Take the place of NNI's tuner."""
        plain = socket.create_connection((LOOPBACK, self.port))  # past any proxy
        return connect(self._channel, sock=plain, max_size=None)

    def _shake_hands(self) -> None:
        """Wait until the manager wants trials."""
        try:
            while not self._ready:
                self._receive(json.loads(self._socket.recv(timeout=_HANDSHAKE_S)))
        except (TimeoutError, ConnectionClosed):
            raise self._ended() from None

    def _receive(self, message: Mapping[str, Any]) -> None:
        """Read a command of the manager."""
        if message["type"] == "IN":
            self._send("ID", "")
        elif message["type"] == "AD":
            self._recovered = {int(job["parameter_id"]) for job in json.loads(message["content"])}
        elif message["type"] == "GE":
            self._ready = True
        elif message["type"] == "EN":
            content = json.loads(message["content"])
            number = json.loads(content["hyper_params"])["parameter_id"]
            self._end(int(number), str(content["event"]))
        elif message["type"] in ("TE", "_bye_"):
            raise self._ended()

    def _end(self, number: int, event: str) -> None:
        """Take up how a trial ended: the files say it, and if they do not, NNI does."""
        if number not in self._running:
            return
        self._running.remove(number)
        failed = Outcome(number, None, f"{_REASONS.get(event, event)}; its log is in the web page")
        self._outcomes.append(TrialFiles(self.run, number).outcome() or failed)

    def _send(self, command: str, content: str) -> None:
        try:
            self._socket.send(json.dumps({"type": command, "content": content}))
        except ConnectionClosed:
            raise self._ended() from None

    def _ended(self) -> ExperimentError:
        return ExperimentError(
            f"NNI's manager of this search has ended, the reason may be in {self.run / NNI_FOLDER}; "
            "run the same command again to go on"
        )


def cell_parameters(cell: Genotype) -> dict[str, Any]:
    """Return a cell as flat parameters: ``op_2_0`` the first operation of the first node, ``input_2_0`` its source."""
    sample = {label.removeprefix(f"{CELL_LABEL}/"): choice for label, choice in cell.to_nni().items()}
    return {name: choice[0] if isinstance(choice, list) else choice for name, choice in sample.items()}


def _threads(concurrency: int) -> dict[str, str]:
    """Return what gives each trial its share of the cores, unless the user has said how many threads to take."""
    if "OMP_NUM_THREADS" in os.environ:
        return {}
    return {"OMP_NUM_THREADS": str(max(1, len(os.sched_getaffinity(0)) // concurrency))}


@contextmanager
def _patient_launcher() -> Iterator[None]:
    """Let NNI wait for its manager as long as a busy machine needs: its own three seconds are too few.

    Its log lines tell of the port on all interfaces, which is not so; the search prints the page's address itself.
    """
    check = launcher._check_rest_server

    def patient(port: int, retry: int = _START_TRIES, url_prefix: str | None = None) -> None:
        check(port, _START_TRIES, url_prefix)

    launcher._check_rest_server = patient
    try:
        with without_logs("nni.experiment"):
            yield
    finally:
        launcher._check_rest_server = check
