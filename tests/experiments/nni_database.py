"""A database as NNI's manager writes it, in the tables that NNI itself makes."""

from __future__ import annotations

import json
import re
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import nni_node

SCHEMA = re.search(
    r"const createTables = `(.+?)`;",
    (Path(nni_node.__path__[0]) / "core" / "sqlDatabase.js").read_text(encoding="utf-8"),
    flags=re.DOTALL,
)[1]

START = 1_700_000_000_000


class NniDatabase:
    """Writes what a manager would.

    Parameters
    ----------
    folder : Path
        The experiment's folder; its name is the id.
    """

    def __init__(self, folder: Path, name: str | None = "my search") -> None:
        self.folder = folder
        self.numbers: dict[str, int] = {}
        (folder / "db").mkdir(parents=True)
        self.path = folder / "db" / "nni.sqlite"
        with closing(sqlite3.connect(self.path)) as connection:
            connection.executescript(SCHEMA)
        params = {"trialConcurrency": 2} | ({"experimentName": name} if name else {})
        for revision in (1, 2, 10):
            row = (json.dumps(params), folder.name, 0, START, None, str(folder), 0, revision)
            self._insert("ExperimentProfile", row)

    def event(self, seconds: float, trial: str, event: str, parameters: Any = None) -> None:
        """Add an event; the first of a trial has its parameters, and they a number."""
        data = None
        if parameters is not None:
            number = self.numbers.setdefault(trial, len(self.numbers))
            data = json.dumps({"parameter_id": number, "parameters": parameters})
        row = (START + 1000 * seconds, trial, event, data, f"/elsewhere/{trial}", 0, None, "local-env")
        self._insert("TrialJobEvent", row)

    def metric(self, seconds: float, trial: str, value: Any, *, final: bool = False) -> None:
        """Add a metric, in JSON within JSON."""
        kind = "FINAL" if final else "PERIODICAL"
        data = json.dumps(json.dumps(value))
        self._insert("MetricData", (START + 1000 * seconds, trial, str(self.numbers[trial]), kind, 0, data))

    def trial_folder(self, trial: str) -> Path:
        """Make the folder of a trial."""
        path = self.folder / "environments" / "local-env" / "trials" / trial
        path.mkdir(parents=True)
        return path

    def _insert(self, table: str, row: tuple) -> None:
        with closing(sqlite3.connect(self.path)) as connection, connection:
            connection.execute(f"insert into {table} values ({', '.join('?' * len(row))})", row)
