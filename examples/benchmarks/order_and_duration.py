"""Which methods tell order, and which durations: all of them on two made-up sets of features, as tables.

    python examples/benchmarks/order_and_duration.py runs/order_and_duration

In the first set two activities are the same parts in another order; in the second, two activities have the same parts
in the same order, and differ in which of them takes longest. 192 videos train, 64 test, chance is 50 %. The folder gets
``order`` and ``duration``, each with a store and a bench (``table.md``); a run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from nni_nastc.data.synthetic import make_duration_features, make_order_features
from nni_nastc.models import METHODS

CONFIG = Path(__file__).parents[1] / "own_videos" / "bench.yaml"
SETS = {"order": make_order_features, "duration": make_duration_features}
CONTROLS = ("sep_conv_3", "random_cell:0", "moving_shapes")


def main() -> None:
    """Make both sets, and bench all methods on each."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("out", type=Path, help="folder for stores and results")
    out = parser.parse_args().out
    for name, make in SETS.items():
        folder = out / name
        if not (folder / "annotations.json").exists():
            make(folder / "store", folder / "annotations.json", videos=256, channels=32, size=1, classes=2)
        overrides = {
            "output": folder / "bench",
            "data.store": folder / "store",
            "data.annotations": folder / "annotations.json",
            "data.timesteps": 16,
            "data.batch_size": 16,
            "data.cache": "memory",
            "methods": f"[{', '.join(repr(method) for method in (*METHODS, *CONTROLS))}]",
            "against": "null",
            "seeds": 2,
            "num_layers": 2,
            "num_groups": 2,
            "epochs": 15,
            "optimizer.schedule": "cosine",
        }
        command = [sys.executable, "-m", "nni_nastc", "bench", CONFIG, *(f"{k}={v}" for k, v in overrides.items())]
        subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
