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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nastc: the following arguments are required: COMMAND; see nastc --help"),
        (["serch"], "nastc: argument COMMAND: invalid choice: 'serch'"),
        (["search"], "nastc search: the following arguments are required: config"),
        (["search", "a.yaml", "--epochs", "3"], "nastc: unrecognized arguments: --epochs"),
        (["export", "a", "epochs=3"], "nastc: unrecognized arguments: epochs=3"),
        (["extract", "a", "--out", "b", "--batch-size", "x"], "nastc extract: argument --batch-size: invalid int"),
    ],
)
def test_wrong_arguments_are_one_line(capsys, arguments, message):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith(message)


def test_interrupted(monkeypatch, capsys):
    def stop(arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(weights, "run_fetch", stop)
    assert main(["weights", "fetch"]) == 130
    assert capsys.readouterr().err.strip() == "nastc weights: interrupted"


def test_names_that_the_terminal_cannot_show():
    code = "from nni_nastc.cli import main, weights\n"
    code += "weights.run_fetch = lambda arguments: print('caf\\udce9 \\u65e5')\nmain.main(['weights', 'fetch'])"
    ascii_only = {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=ascii_only, check=True)
    assert done.stdout == b"caf\\udce9 \\u65e5\n"
