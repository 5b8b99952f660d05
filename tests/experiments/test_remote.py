"""Trials on another machine: an SSH server of this one, with a home of its own, reached through a tunnel only."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import yaml

from nni_nastc import __version__
from nni_nastc.cli.main import main
from nni_nastc.experiments import server
from nni_nastc.genotype import Genotype
from tests.experiments.managers import ROOT, environment_of, managers_in, processes_in
from tests.toy import ToySet

FORWARDING_OFF = "AllowTcpForwarding no"

# In place of ssh: says that the tunnel is there, and opens none.
NO_TUNNEL = """#!/bin/sh
echo "Allocated port {port} for remote forward to 127.0.0.1:1" >&2
exec cat
"""

# In place of the other machine's Python: one without the package.
OTHER_PYTHON = """#!/bin/sh
case "$*" in *nni_nastc*) echo "ModuleNotFoundError: No module named 'nni_nastc'" >&2; exit 1;; esac
exec {python} "$@"
"""


def program(name: str) -> str:
    """Return where a program is; only CI insists on it."""
    found = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
    if found is None:
        message = f"no {name} is here: apt-get install openssh-client openssh-server"
        pytest.fail(message) if os.environ.get("CI") == "true" else pytest.skip(message)
    return found


@dataclass
class OtherMachine:
    """An SSH server on loopback.

    Attributes
    ----------
    folder : Path
        Its home, and the keys.
    local : Path
        The folder that ``nastc launch`` works in.
    port : int
        Of the server.
    """

    folder: Path
    local: Path
    port: int

    def experiment(self, toy: ToySet, command: str = "", **machine: object) -> None:
        """Write the shipped file with this machine, and a small search or another command."""
        values = yaml.safe_load((ROOT / "examples" / "nnictl" / "remote.yml").read_text())
        login = {"host": server.LOOPBACK, "port": self.port, "user": psutil.Process().username()}
        login |= {"sshKeyFile": str(self.folder / "key"), "pythonPath": str(Path(sys.executable).parent)}
        values |= {
            "trialCommand": command
            or "python -m nni_nastc.search.trial search space=nastc_small num_layers=1 epochs=2 "
            f"data.store={toy.store} data.annotations={toy.annotations} data.timesteps=8 data.batch_size=6",
            "maxTrialNumber": 1,
            "trainingService": {"platform": "remote", "machineList": [login | machine]},
        }
        (self.local / "trial.txt").write_text("NNI sends no empty folder")
        (self.local / "remote.yml").write_text(yaml.safe_dump(values))

    def launch(self, *arguments: str) -> subprocess.Popen:
        command = [sys.executable, "-m", "nni_nastc", "launch", "remote.yml", "--out", "report", *arguments]
        environment = environment_of(self.local)
        environment["PATH"] = f"{self.local / 'bin'}:{environment['PATH']}"
        return subprocess.Popen(
            command, cwd=self.local, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def replace_ssh(self, script: str) -> None:
        """Put a script before the system's ssh."""
        path = self.local / "bin" / "ssh"
        path.parent.mkdir(exist_ok=True)
        path.write_text(script)
        path.chmod(0o755)

    def file(self, pattern: str, seconds: float = 90) -> Path:
        """Wait for a file of the one experiment over there."""
        deadline = time.monotonic() + seconds
        while not (found := list(self.folder.glob(f"nni-experiments/*/environments/*/{pattern}"))):
            assert time.monotonic() < deadline, f"there is no {pattern}"
            time.sleep(0.1)
        return found[0]


@pytest.fixture
def machine(tmp_path, request) -> Iterator[OtherMachine]:
    """Start an SSH server and stop it; nothing may run on either side when the test ends."""
    sshd, ssh, keygen = map(program, ("sshd", "ssh", "ssh-keygen"))
    away, local = tmp_path / "away", tmp_path / "local"
    away.mkdir()
    local.mkdir()
    made = OtherMachine(away, local, server.free_port())
    for name in ("host", "key"):
        subprocess.run([keygen, "-q", "-t", "ed25519", "-N", "", "-f", str(away / name)], check=True)
    variables = {"HOME": away, "PYTHONPATH": ROOT, "OMP_NUM_THREADS": 1}
    lines = [
        f"Port {made.port}",
        f"ListenAddress {server.LOOPBACK}",
        f"HostKey {away / 'host'}",
        f"AuthorizedKeysFile {away / 'key.pub'}",
        "PidFile none",
        "StrictModes no",  # the keys are below /tmp
        "UsePAM no",
        "PasswordAuthentication no",
        "Subsystem sftp internal-sftp",
        f"SetEnv {' '.join(f'{name}={value}' for name, value in variables.items())}",
        *getattr(request, "param", ()),
    ]
    (away / "sshd_config").write_text("\n".join(lines) + "\n")
    (away / "known").write_text(f"[{server.LOOPBACK}]:{made.port} {(away / 'host.pub').read_text()}")
    made.replace_ssh(f'#!/bin/sh\nexec {ssh} -F none -o UserKnownHostsFile={away / "known"} "$@"\n')
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # where its unprivileged part lives
    with (away / "sshd.log").open("w") as log:
        daemon = subprocess.Popen([sshd, "-D", "-e", "-f", str(away / "sshd_config")], stderr=log)
    try:
        deadline = time.monotonic() + 20
        while server.is_idle(made.port):
            assert daemon.poll() is None, (away / "sshd.log").read_text()
            assert time.monotonic() < deadline, "the SSH server does not start"
            time.sleep(0.05)
        yield made
        deadline = time.monotonic() + 30
        while left := processes_in(local) + [line for line in processes_in(away) if "sshd_config" not in line]:
            assert time.monotonic() < deadline, f"left running: {left}"
            time.sleep(0.2)
    finally:
        for manager in managers_in(local):
            server.stop_manager(manager)
        daemon.terminate()
        daemon.wait(timeout=20)


def listening(pid: int) -> set[str]:
    """Return the addresses on which a process listens."""
    return {one.laddr.ip for one in psutil.Process(pid).net_connections() if one.status == psutil.CONN_LISTEN}


@pytest.mark.slow
def test_a_search_on_another_machine(machine, toy):
    machine.experiment(toy)
    process = machine.launch()
    keeper = machine.file("trial_keeper/success.flag").parent  # what stands for the manager over there
    assert listening(int((keeper / "trial_keeper.pid").read_text())) == {server.LOOPBACK}
    out, err = process.communicate(timeout=180)
    assert process.returncode == 0, out + err
    assert err.count("WARNING") == 0
    port, prefix = re.search(r"http://127\.0\.0\.1:(\d+)/(\w+)/oview", out).groups()
    dialled = json.loads((keeper / "launcher_config.json").read_text())["managerCommandChannel"]
    tunnel = re.fullmatch(rf"ws://127\.0\.0\.1:(\d+)/{prefix}/platform/remote/1", dialled)[1]
    assert tunnel != port, "the manager's own port was dialled"
    found = Genotype.from_json(machine.file("trials/*/genotype.json"))
    assert Genotype.from_json(machine.local / "report" / "genotype.json").nodes == found.nodes
    assert server.is_idle(int(tunnel)), "the tunnel is still there"


@pytest.mark.slow
@pytest.mark.parametrize("machine", [[FORWARDING_OFF]], indirect=True)
def test_without_a_tunnel_nothing_starts(machine, toy):
    machine.experiment(toy)
    out, err = machine.launch().communicate(timeout=90)
    assert "no SSH tunnel to 127.0.0.1: Error: remote port forwarding failed for listen port 0" in err, out + err
    assert f"log in once by hand: ssh -p {machine.port} -i {machine.folder / 'key'} " in err
    assert err.splitlines()[-1].startswith("nastc launch: ")
    assert not (machine.folder / "nni-experiments").exists()


@pytest.mark.slow
def test_the_other_machine_dials_nothing_but_the_tunnel(machine, toy):
    """With a tunnel that leads nowhere it does not reach the manager, which runs on the same machine here."""
    machine.experiment(toy)
    with socket.create_server((server.LOOPBACK, 0)) as listener:
        nowhere = listener.getsockname()[1]
    machine.replace_ssh(NO_TUNNEL.format(port=nowhere))
    out, err = machine.launch().communicate(timeout=120)
    assert "Failed to launch trial keeper daemon" in err, out + err
    assert f"127.0.0.1:{nowhere}" in machine.file("trial_keeper/trial_keeper.stderr").read_text()


@pytest.mark.slow
def test_nothing_goes_on_there_after_a_kill(machine, toy):
    """The fixture waits until no process of the other machine is left."""
    machine.experiment(toy, "sleep 600")
    process = machine.launch()
    machine.file("trials/*/trial.stdout")
    assert any("sleep 600" in line for line in processes_in(machine.folder))
    process.kill()
    process.communicate(timeout=20)


@pytest.mark.slow
def test_a_machine_without_the_package(machine, toy):
    machine.experiment(toy, pythonPath=str(machine.folder / "bin"))
    (machine.folder / "bin").mkdir()
    (machine.folder / "bin" / "python").write_text(OTHER_PYTHON.format(python=shlex.quote(sys.executable)))
    (machine.folder / "bin" / "python").chmod(0o755)
    out, err = machine.launch().communicate(timeout=90)
    reason = "its python has: ModuleNotFoundError: No module named 'nni_nastc'; install it with pip there"
    assert f"127.0.0.1 needs nni_nastc {__version__}, {reason}" in err, out + err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"machineList": [{"host": "a", "user": "b", "password": "c"}]}, "a tunnel needs a key, got a password"),
        ({"machineList": [{"host": "a", "user": "b"}], "reuseMode": True}, "reuseMode: true has no tunnels"),
        ({"machineList": [{"host": "a", "user": "b", "sshKeyFile": "nowhere"}]}, "nowhere"),
        ({"machineList": []}, "at least one machine"),
    ],
)
def test_machines_that_no_tunnel_reaches(tmp_path, monkeypatch, capsys, changes, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(shutil, "which", lambda name: name)
    values = yaml.safe_load((ROOT / "examples" / "nnictl" / "remote.yml").read_text())
    values["trainingService"] = {"platform": "remote"} | changes
    Path("remote.yml").write_text(yaml.safe_dump(values))
    assert main(["launch", "remote.yml"]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1, error
