"""How long each strategy searches on one store, one after the other, as a table.

    nastc demo --out runs/demo
    python examples/benchmarks/strategies.py runs/demo

One-shot strategies train their supernet for 6 epochs; the others train 4 networks for 6 epochs each, two trials at a
time. ENAS and PolicyBasedRL need the extra: pip install 'nni_nastc[rl]'. The folder gets ``strategies/NAME``, the runs,
and ``strategies.json``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

from nni_nastc import Genotype
from nni_nastc.search.sampling import MULTI_TRIAL
from nni_nastc.search.strategies import STRATEGIES

CONFIG = Path(__file__).parents[1] / "own_videos" / "search.yaml"
ONE_SHOT = {"epochs": 6}
BY_TRIALS = {"trials.epochs": 6, "trials.max_trials": 4, "trials.concurrency": 2}


def search(name: str, demo: Path) -> float:
    """Search with a strategy; return the seconds, the start of Python included."""
    output = demo / "strategies" / name
    if output.exists():
        sys.exit(f"{output} is there already; remove it, or take another copy of the demo")
    overrides = {
        "output": output,
        "data.store": demo / "store",
        "data.annotations": demo / "annotations.json",
        "data.timesteps": 16,
        "strategy": f"{{name: {name}}}",
        **(BY_TRIALS if name in MULTI_TRIAL else ONE_SHOT),
    }
    command = [sys.executable, "-m", "nni_nastc", "search", CONFIG, *(f"{k}={v}" for k, v in overrides.items())]
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    seconds = time.perf_counter() - start
    Genotype.from_json(output / "genotype.json")
    return seconds


def main() -> None:
    """Search with every strategy, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("demo", type=Path, help="folder of nastc demo")
    parser.add_argument("--only", nargs="+", choices=STRATEGIES, default=list(STRATEGIES), metavar="NAME")
    arguments = parser.parse_args()
    seconds = {}
    print("| strategy | seconds |\n|---|---|")
    for name in arguments.only:
        seconds[name] = search(name, arguments.demo)
        print(f"| `{name}` | {seconds[name]:.0f} |", flush=True)
        (arguments.demo / "strategies.json").write_text(json.dumps(seconds, indent=1))


if __name__ == "__main__":
    main()
