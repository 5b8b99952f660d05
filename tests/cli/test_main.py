"""Exit codes and messages of the command line."""

from __future__ import annotations

import subprocess
import sys

import pytest

from nni_nastc.cli import weights
from nni_nastc.cli.main import main


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (PermissionError(13, "Permission denied", "/a/b"), "nastc weights: Permission denied: /a/b; check"),
        (OSError(30, "Read-only file system", "/a"), "nastc weights: Read-only file system: /a; check that the path"),
        (ConnectionError("reset by peer"), "nastc weights: reset by peer"),
        (OSError(28, "No space left on device"), "nastc weights: the disk is full"),
    ],
)
def test_errors_of_the_operating_system_are_one_line(monkeypatch, capsys, error, message):
    def fail(arguments):
        raise error

    monkeypatch.setattr(weights, "run_fetch", fail)
    assert main(["weights", "fetch"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith(message)


def test_a_reader_that_wants_no_more_is_no_error(tmp_path):
    code = """if True:
        import sys
        from nni_nastc.cli import main, weights
        weights.run_fetch = lambda arguments: print("x" * 1_000_000) or 0
        sys.exit(main.main(["weights", "fetch"]))
    """
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.read(1)
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait() == 141
