"""NNI's server is closed: on 127.0.0.1, under a prefix, and gone when it is stopped."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import nni_node
import psutil
import pytest
import yaml

from nni_nastc.cli.main import main
from nni_nastc.errors import ExperimentError
from nni_nastc.experiments import server
from tests.experiments.managers import assert_closed, environment_of, only_manager

NODE = Path(nni_node.__path__[0]) / "node"

LISTEN = """
const server = require('net').createServer();
server.listen(...ARGUMENTS, () => { console.log(JSON.stringify(server.address())); server.close(); });
"""


@pytest.mark.parametrize("main_file", ["nni_node/main.js", "other/main.js"])
@pytest.mark.parametrize("arguments", ["[0]", "['0']", "[0, '::']", "[0, undefined]", "[{port: 0}]", "[]", "[null]"])
def test_only_the_manager_is_bound_to_loopback(tmp_path, main_file, arguments):
    script = tmp_path / main_file
    script.parent.mkdir()
    script.write_text(LISTEN.replace("ARGUMENTS", arguments))
    done = subprocess.run(
        [NODE, script], env=os.environ | server.closed_environment({}), capture_output=True, text=True, check=True
    )
    address = json.loads(done.stdout)["address"]
    assert (address == "127.0.0.1") == (main_file == "nni_node/main.js"), address


def test_sockets_of_files_are_left_alone(tmp_path):
    script = tmp_path / "nni_node" / "main.js"
    script.parent.mkdir()
    script.write_text(LISTEN.replace("ARGUMENTS", "[{path: './s'}]"))
    environment = os.environ | server.closed_environment({})
    done = subprocess.run([NODE, script], env=environment, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == "./s"


def test_preload_in_a_folder_with_blanks_and_quotes(tmp_path, monkeypatch):
    script = tmp_path / 'a "folder" of mine' / "nni_node" / "main.js"
    script.parent.mkdir(parents=True)
    script.write_text(LISTEN.replace("ARGUMENTS", "[0]"))
    for file in server.PRELOAD.parent.glob("*.js"):
        shutil.copy(file, script.parent)
    monkeypatch.setattr(server, "PRELOAD", script.parent / server.PRELOAD.name)
    environment = os.environ | server.closed_environment({})
    done = subprocess.run([NODE, script], env=environment, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["address"] == "127.0.0.1"


def test_environment_keeps_what_is_set():
    mine = {"NODE_OPTIONS": "--max-http-header-size=9000", "PYTHONWARNINGS": "error::ResourceWarning"}
    once = server.closed_environment(mine)
    assert once["NODE_OPTIONS"].startswith("--max-http-header-size=9000 --require ")
    assert once["PYTHONWARNINGS"] == "error::ResourceWarning,ignore:pkg_resources is deprecated:UserWarning"
    assert server.closed_environment(mine | once) == once
    assert once["no_proxy"] == "localhost,127.0.0.1"
    for name in ("no_proxy", "NO_PROXY"):
        assert server.closed_environment({name: "example.org"})["no_proxy"] == "example.org,localhost,127.0.0.1"


def test_block_restores_the_environment(monkeypatch):
    monkeypatch.setenv("NODE_OPTIONS", "--no-deprecation")
    monkeypatch.delenv("PYTHONWARNINGS", raising=False)
    with server.closed():
        assert str(server.PRELOAD) in os.environ["NODE_OPTIONS"]
        assert "pkg_resources" in os.environ["PYTHONWARNINGS"]
    assert os.environ["NODE_OPTIONS"] == "--no-deprecation"
    assert "PYTHONWARNINGS" not in os.environ


def test_shell_lines(monkeypatch, capsys):
    """What ``eval "$(nastc nni-env)"`` leaves in a shell, with and without this Python on the path."""
    monkeypatch.delenv("NASTC_PREFIX", raising=False)
    monkeypatch.setenv("NODE_OPTIONS", "--title='a b'")
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    assert main(["nni-env"]) == 0
    lines = capsys.readouterr().out
    shown = subprocess.run(
        ["sh", "-c", f'{lines} printf "%s\\n" "$NODE_OPTIONS" "$NASTC_PREFIX"; command -v python'],
        capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    assert shown[0] == f"--title='a b' --require \"{server.PRELOAD}\""
    assert len(shown[1]) == 32
    assert int(shown[1], 16) != int(server.random_prefix(), 16)
    assert shown[2] == str(Path(sys.executable).parent / "python")
    for name, value in server.shell_environment().items():
        monkeypatch.setenv(name, value)
    again = server.shell_environment()
    assert "PATH" not in again
    assert again == {name: os.environ[name] for name in again}, "a second eval changes nothing"


def test_ports():
    port = server.free_port()
    server.require_idle(port)
    for host in ("127.0.0.1", "0.0.0.0"):
        with socket.create_server((host, port)):
            assert not server.is_idle(port)
            with pytest.raises(ExperimentError, match=f"port {port} is in use; choose another"):
                server.require_idle(port)
            with pytest.raises(ExperimentError, match=f"something still listens on port {port}"):
                server.require_closed(port, seconds=0.1)
    server.require_closed(port)
    for wrong in (80, 65536, -1):
        with pytest.raises(ExperimentError, match=f"a port is 1024 to 65535, got {wrong}"):
            server.require_idle(wrong)


def test_command_lines_of_managers():
    command = shlex.split(
        "/x/nni_node/node --max-old-space-size=4096 /x/nni_node/main.js --port 8099 --experiment-id ab12 "
        "--action create --experiments-directory /data/nni --log-level info --url-prefix secret --mode local"
    )
    assert server._manager(7, command) == server.Manager(7, "ab12", 8099, "secret", Path("/data/nni/ab12"))
    assert server._manager(7, ["/x/nni_node/node", "/x/other.js", *command[3:]]) is None
    assert server._manager(7, command[:5]) is None
    without = [part for part in command if part not in ("--url-prefix", "secret")]
    assert server._manager(7, without).address == "http://127.0.0.1:8099/oview"


@pytest.mark.slow
def test_an_experiment_of_nnictl_is_closed(tmp_path, monkeypatch):
    """The lines of the README: eval, then nnictl with the prefix."""
    port = server.free_port()
    experiment = {
        "trialCommand": "sleep 61.7",
        "trialCodeDirectory": str(tmp_path),
        "searchSpace": {"x": {"_type": "choice", "_value": [1, 2]}},
        "trialConcurrency": 1,
        "maxTrialNumber": 1,
        "tuner": {"name": "Random"},
        "trainingService": {"platform": "local"},
        "experimentWorkingDirectory": str(tmp_path / "experiments"),
    }
    (tmp_path / "experiment.yml").write_text(yaml.safe_dump(experiment))
    nastc = f"{shlex.quote(sys.executable)} -m nni_nastc"
    script = (
        f'eval "$({nastc} nni-env)" && '
        f"nnictl create --config experiment.yml --port {port} --url_prefix $NASTC_PREFIX && echo $NASTC_PREFIX"
    )
    done = subprocess.run(
        ["sh", "-c", script], cwd=tmp_path, env=environment_of(tmp_path), capture_output=True, text=True, check=False
    )
    with only_manager(tmp_path) as manager:
        assert done.returncode == 0, done.stdout + done.stderr
        assert "Warning" not in done.stderr
        assert manager.port == port
        assert manager.prefix == done.stdout.splitlines()[-1]
        assert server.find_managers(manager.experiment) == [manager]
        assert_closed(manager)
        with pytest.raises(ExperimentError, match=f"in use by NNI's experiment {manager.experiment}; choose another"):
            server.require_idle(port)
        deadline = time.monotonic() + 60
        while not (trials := [p for p in psutil.process_iter() if "sleep 61.7" in " ".join(_command(p))]):
            assert time.monotonic() < deadline, "no trial has started"
            time.sleep(0.2)
        server.stop_manager(manager)
        assert server.is_idle(port)
        assert not psutil.pid_exists(manager.pid)
        assert not psutil.wait_procs(trials, timeout=10)[1], "a trial goes on"


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []
