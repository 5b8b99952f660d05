"""Several processes extract as one does: the same files, nothing twice, all failures told, one exit code."""

from __future__ import annotations

import re
import subprocess
import sys
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
