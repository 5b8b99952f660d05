"""NNI's node manager, closed: on 127.0.0.1, under a secret path, and gone when it is no longer wanted.

Whoever reaches the manager can run code and read files as the user, and NNI 3.0 lets everybody in: it listens on every
interface and knows no login. Nothing of NNI is changed here. The manager inherits ``NODE_OPTIONS``, by which node loads
``manager.js`` first; and all its paths get a random prefix, without which other users of the machine get a 404.
"""

from __future__ import annotations

import http.client
import os
import secrets
import shlex
import shutil
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from nni_nastc.errors import ExperimentError

LOOPBACK = "127.0.0.1"

PRELOAD = Path(__file__).with_name("manager.js")
"""What node loads before NNI's manager."""

PREFIX_VARIABLE = "NASTC_PREFIX"
"""The environment variable that holds the prefix in a shell."""

PARENT_VARIABLE = "NASTC_PARENT"
"""The environment variable that ties a manager to the process with this number."""

OPEN_VARIABLE = "NASTC_OPEN"
"""The environment variable that lets managers listen on every interface, if it is "yes"."""

_QUIET = "ignore:pkg_resources is deprecated:UserWarning"
"""nnictl's own import."""

_STOP_SECONDS = 30.0
"""How long a manager may take to end its trials and itself before it is killed."""


def closed_environment(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the variables that close NNI's manager, keep its calls off proxies, and silence nnictl's own warning.

    Parameters
    ----------
    environ : mapping, optional
        The environment that they extend: what it has of them stays in force. The process's by default.

    Returns
    -------
    dict
        ``NODE_OPTIONS``, ``PYTHONWARNINGS`` and ``no_proxy``. The same again if they are set already.
    """
    environ = os.environ if environ is None else environ
    no_proxy = environ.get("no_proxy") or environ.get("NO_PROXY", "")  # in the order of who reads them
    return {
        "NODE_OPTIONS": _with(environ.get("NODE_OPTIONS", ""), _require_preload(), " "),
        "PYTHONWARNINGS": _with(environ.get("PYTHONWARNINGS", ""), _QUIET, ","),
        "no_proxy": _with(no_proxy, f"localhost,{LOOPBACK}", ","),
    }


def shell_environment(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return what a shell needs for nnictl: :func:`closed_environment`, the prefix, and a ``PATH`` with this Python.

    A prefix that is set already is kept. The trial commands of NNI's experiment files start with ``python``.
    """
    environ = os.environ if environ is None else environ
    variables = {**closed_environment(environ), PREFIX_VARIABLE: environ.get(PREFIX_VARIABLE) or random_prefix()}
    binaries = str(Path(sys.executable).parent)
    found = shutil.which("python", path=environ.get("PATH", ""))
    if found is None or str(Path(found).parent) != binaries:
        variables["PATH"] = f"{binaries}{os.pathsep}{environ.get('PATH', '')}"
    return variables


def shell_lines(environ: Mapping[str, str] | None = None) -> str:
    """Return :func:`shell_environment` as lines for ``eval`` in a POSIX shell."""
    return "".join(f"export {name}={shlex.quote(value)}\n" for name, value in shell_environment(environ).items())


@contextmanager
def closed(*, tied: bool = False, open_to_network: bool = False) -> Iterator[None]:
    """Set :func:`closed_environment` for a block, in which NNI's Python API starts managers.

    The trials and other processes that are started meanwhile inherit it, which changes nothing for them.

    Parameters
    ----------
    tied : bool
        Whether the managers, and so their trials, end with this process, even if it is killed.
    open_to_network : bool
        Whether the managers listen on every interface after all: whoever reaches one can run code as this user.
    """
    variables = closed_environment() | {OPEN_VARIABLE: "yes" if open_to_network else "no"}
    with environment(variables | ({PARENT_VARIABLE: str(os.getpid())} if tied else {})):
        yield


@contextmanager
def environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables for a block."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def random_prefix() -> str:
    """Return a path prefix of 128 random bits."""
    return secrets.token_hex(16)


def free_port() -> int:
    """Return a port of 127.0.0.1 on which nobody listens, with a free one after it (NNI's remote service takes two)."""
    for _ in range(100):
        with socket.socket() as probe:
            probe.bind((LOOPBACK, 0))
            port = int(probe.getsockname()[1])
        if port < 65535 and is_idle(port) and is_idle(port + 1):
            return port
    raise ExperimentError("no two neighbouring ports of 127.0.0.1 are free; end some other servers")


def is_idle(port: int) -> bool:
    """Tell whether nobody listens on a port of 127.0.0.1, nor on that of all interfaces."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections that are closing do not matter
        try:
            probe.bind((LOOPBACK, port))
            probe.listen(1)
        except OSError:
            return False
    return True


def require_idle(port: int) -> None:
    """Refuse a port that a server could not use.

    Raises
    ------
    ExperimentError
        If it is out of range, needs root, or somebody listens on it.
    """
    if not 1024 <= port <= 65535:
        raise ExperimentError(f"a port is 1024 to 65535, got {port}; choose one of them")
    if is_idle(port):
        return
    holder = next((manager for manager in find_managers() if manager.port == port), None)
    if holder:
        raise ExperimentError(
            f"port {port} is in use by NNI's experiment {holder.experiment}; "
            f"choose another port, or stop it: nnictl stop {holder.experiment}"
        )
    raise ExperimentError(f"port {port} is in use; choose another, or end what listens there")


@dataclass(frozen=True)
class Manager:
    """A running node manager of this user.

    Attributes
    ----------
    pid : int
        Its process.
    experiment : str
        NNI's id of the experiment.
    port : int
        Where it listens.
    prefix : str
        Its path prefix; "" for none.
    folder : Path
        The folder of the experiment: ``db``, ``log``, ``trials``.
    """

    pid: int
    experiment: str
    port: int
    prefix: str
    folder: Path

    @property
    def address(self) -> str:
        """The address of the web page."""
        return page_address(self.port, self.prefix)


def page_address(port: int, prefix: str) -> str:
    """Return the address of the web page, as seen from this machine."""
    return f"http://{LOOPBACK}:{port}/{prefix}/oview" if prefix else f"http://{LOOPBACK}:{port}/oview"


def find_managers(experiment: str | None = None) -> list[Manager]:
    """Return the running managers of this user, those whose starter has died included.

    Parameters
    ----------
    experiment : str, optional
        Only those of this id.
    """
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            manager = _manager(process.pid, process.cmdline())
            if manager and process.uids().real == os.getuid() and experiment in (None, manager.experiment):
                found.append(manager)
    return found


def stop_manager(manager: Manager) -> None:
    """End a manager with its tuner and its trials: politely first, and whatever is left by force.

    Raises
    ------
    ExperimentError
        If its port is still open afterwards.
    """
    try:
        processes = [psutil.Process(manager.pid)]
        processes += processes[0].children(recursive=True)
    except psutil.NoSuchProcess:
        processes = []
    with suppress(OSError, http.client.HTTPException):
        request(manager.port, f"{manager.prefix}/api/v1/nni/experiment", method="DELETE")
    _, left = psutil.wait_procs(processes, timeout=_STOP_SECONDS)
    for process in left:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(left, timeout=_STOP_SECONDS)
    require_closed(manager.port)


def require_closed(port: int, *, seconds: float = 5.0) -> None:
    """Wait until nobody listens on a port.

    Raises
    ------
    ExperimentError
        If somebody still does.
    """
    deadline = time.monotonic() + seconds
    while not is_idle(port):
        if time.monotonic() > deadline:
            raise ExperimentError(f"something still listens on port {port}; look for it with: nnictl experiment list")
        time.sleep(0.05)


def request(port: int, path: str, *, method: str = "GET", host: str = LOOPBACK) -> tuple[int, bytes]:
    """Ask a server of this machine, past any proxy; return the status and the body.

    Raises
    ------
    OSError, http.client.HTTPException
        If nobody answers.
    """
    connection = http.client.HTTPConnection(host, port, timeout=20)
    try:
        connection.request(method, f"/{path.lstrip('/')}")
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def _require_preload() -> str:
    """Return node's option, in the quotes that it understands."""
    path = str(PRELOAD).replace("\\", "\\\\").replace('"', '\\"')
    return f'--require "{path}"'


def _manager(pid: int, command: list[str]) -> Manager | None:
    """Read the command line of a process; None if it is no manager."""
    if not any(part.endswith(os.path.join("nni_node", "main.js")) for part in command):
        return None
    options = dict(zip(command, command[1:], strict=False))
    try:
        experiment = options["--experiment-id"]
        folder = Path(options["--experiments-directory"], experiment)
        return Manager(pid, experiment, int(options["--port"]), options.get("--url-prefix", ""), folder)
    except (KeyError, ValueError):
        return None


def _with(value: str, addition: str, separator: str) -> str:
    """Append to a list of options, once."""
    if addition in value:
        return value
    return f"{value}{separator}{addition}" if value else addition
