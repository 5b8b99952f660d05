"""The benchmark of the loader runs as it stands."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "examples" / "benchmarks" / "reading.py"


def test_it_prints_speeds():
    sizes = "--videos 6 --windows 5 --shape 4 2 2 --timesteps 4 --batch-size 2 --rounds 2"
    done = subprocess.run([sys.executable, SCRIPT, *sizes.split()], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("6 videos, T = 4, 2 threads that read\n")
    speeds = dict(re.findall(r"^(.+?) +(\d+) MB/s$", done.stdout, re.MULTILINE))
    assert list(speeds) == ["plain read", "loader", "loader, float32"], done.stdout
