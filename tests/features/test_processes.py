"""Several processes extract as one does: the same files, nothing twice, all failures told, one exit code."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from nni_nastc.cli.main import main
from tests.distributed_jobs import ROOT, torchrun
from tests.videos import numbered_frame, truncated, write_images, write_video

OPTIONS = ["--weights", "random", "--short-side", "64", "--crop", "64", "--pool", "1", "--batch-size", "3"]
OPTIONS += ["--device", "cpu", "--fps", "24"]

pytestmark = pytest.mark.slow


@pytest.fixture
def folder(tmp_path) -> Path:
    """Return a folder of five videos with 28 superframes, among two that are damaged."""
    folder = tmp_path / "videos"
    folder.mkdir()
    for first, (name, frames) in enumerate((("a", 24), ("b", 80), ("c", 17), ("d", 40))):
        write_video(folder / f"{name}.mp4", [numbered_frame(100 * first + n) for n in range(frames)])
    write_images(folder / "images", [numbered_frame(1000 + n) for n in range(64)])
    truncated(folder / "b.mp4", folder / "cut.mp4", 3000)
    (folder / "text.mp4").write_text("no video")
    return folder


def files(store: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in store.iterdir() if file.name != ".lock"}


def extracted(output: str) -> tuple[int, ...]:
    """Return what the only line says: videos extracted, superframes, videos already there."""
    (line,) = re.findall(r"videos extracted: (\d+) \((\d+) superframes in .*already there: (\d+)", output)
    return tuple(map(int, line))


def check_failures(error: str, *names: str) -> None:
    assert error.count(f"nastc extract: cannot use {len(names)} of 7 videos:") == 1, error
    for name in names:
        assert len(re.findall(rf"^  \S*{name} is ", error, flags=re.MULTILINE)) == 1, f"{name} in {error}"


def test_two_processes_of_torchrun(folder, tmp_path, capsys):
    one, two = tmp_path / "one", tmp_path / "two"
    assert main(["extract", str(folder), "--out", str(one), *OPTIONS]) == 2
    check_failures(capsys.readouterr().err, "cut.mp4", "text.mp4")

    command = ["nni_nastc", "extract", folder, "--out", two, *OPTIONS, "--devices", "2"]
    shown = torchrun(*command, check=False)
    assert extracted(shown.stdout) == (5, 28, 0)
    check_failures(shown.stderr, "cut.mp4", "text.mp4")
    assert len(re.findall(r"exitcode +: 2 ", shown.stderr)) == 2, f"both processes end with 2: {shown.stderr}"
    assert shown.stderr.count("extracting (process 1 of 2)") == 1, f"one process draws: {shown.stderr}"
    assert files(two) == files(one)

    (two / "b.safetensors").unlink()
    for bad in ("cut.mp4", "text.mp4"):
        (folder / bad).unlink()
    again = torchrun(*command)
    assert extracted(again.stdout) == (1, 10, 4), "one process has nothing to do"
    assert files(two) == files(one)


def test_lightning_starts_the_other_process_itself(folder, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    assert main(["extract", str(folder), "--out", str(one), *OPTIONS]) == 2
    command = [sys.executable, "-m", "nni_nastc", "extract", folder, "--out", two, *OPTIONS, "--devices", "2"]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert shown.returncode == 2, shown.stderr
    assert extracted(shown.stdout) == (5, 28, 0)
    check_failures(shown.stderr, "cut.mp4", "text.mp4")
    assert shown.stderr.count("the weights of I3D are RANDOM") == 1, shown.stderr
    assert files(two) == files(one)


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_all_processes(tmp_path, stop):
    """SIGTERM goes to the process that a user or batch system knows, Ctrl-C to all that belong to the terminal."""
    long, store = tmp_path / "long", tmp_path / "store"
    long.mkdir()
    for name in ("a", "b"):
        write_video(long / f"{name}.mp4", [numbered_frame(n) for n in range(1600)])
    options = ["--weights", "random", "--devices", "2", "--device", "cpu"]
    command = [sys.executable, "-m", "nni_nastc", "extract", long, "--out", store, *options]
    with subprocess.Popen(
        command, cwd=ROOT, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        wait_until(lambda: len(list(store.glob(".[ab]-*"))) == 2)  # both write
        if stop == signal.SIGTERM:
            process.terminate()
        else:
            os.killpg(process.pid, stop)
        output, _ = process.communicate(timeout=30)
    assert process.returncode == 128 + stop, output
    assert not is_group_alive(process.pid), "the first process waits for the other"
    assert not list(store.glob("*.safetensors")), "no video was done, and nothing is left half-written"
    assert output.count(b"interrupted; the same command goes on") == (stop == signal.SIGINT)


def wait_until(so: Callable[[], bool]) -> None:
    for _ in range(600):
        if so():
            return
        time.sleep(0.1)
    pytest.fail("it has not come within a minute")


def is_group_alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True
