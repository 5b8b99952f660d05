"""Managers of NNI that a test starts: where they keep their things, and that nothing of them is left."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from nni_nastc.experiments import server

ROOT = Path(__file__).parents[2]


def environment_of(home: Path) -> dict[str, str]:
    """Return the environment in which NNI keeps its list of experiments in ``home``, and finds this checkout."""
    kept = {name: value for name, value in os.environ.items() if name not in ("NODE_OPTIONS", "NASTC_PREFIX")}
    paths = [str(ROOT), *filter(None, [kept.get("PYTHONPATH")])]
    return kept | {"HOME": str(home), "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}


def managers_in(home: Path) -> list[server.Manager]:
    """Return the running managers whose experiments are below ``home``."""
    return [manager for manager in server.find_managers() if manager.folder.is_relative_to(home)]


@contextmanager
def only_manager(home: Path) -> Iterator[server.Manager | None]:
    """Yield the one manager that works below ``home`` (None if there is none), and end it in any case."""
    found = managers_in(home)
    try:
        assert len(found) <= 1, found
        yield found[0] if found else None
    finally:
        for manager in managers_in(home):
            server.stop_manager(manager)


def other_addresses() -> list[str]:
    """The machine's addresses but 127.0.0.1; the rest of 127.0.0.0/8 is there on every Linux."""
    found = {
        address.address.partition("%")[0]
        for addresses in psutil.net_if_addrs().values()
        for address in addresses
        if address.family in (socket.AF_INET, socket.AF_INET6) and not address.address.startswith("fe80:")
    }
    return sorted((found | {"127.0.0.2"}) - {"127.0.0.1"})


def assert_closed(manager: server.Manager, state: str = "RUNNING") -> None:
    """It is in that state; its pages are below its prefix only, and on no other address of this machine."""
    status, body = server.request(manager.port, f"{manager.prefix}/api/v1/nni/check-status")
    assert (status, json.loads(body)["status"]) == (200, state)
    assert len(manager.prefix) == 32
    for path in ("", "oview", "api/v1/nni/check-status", "api/v1/nni/experiment", f"x{manager.prefix}/api/v1/nni"):
        assert server.request(manager.port, path)[0] == 404, path
    for address in other_addresses():
        with pytest.raises(ConnectionRefusedError):
            server.request(manager.port, f"{manager.prefix}/api/v1/nni/check-status", host=address)


def processes_in(folder: Path) -> list[str]:
    """Return the command lines of all processes that work in ``folder`` or name it."""
    left = []
    for process in psutil.process_iter():
        try:
            line, place = " ".join(process.cmdline()), process.cwd()
        except psutil.Error:
            continue
        if process.pid != os.getpid() and (str(folder) in line or place.startswith(str(folder))):
            left.append(line)
    return left
