"""One run of a bench, in a process of its own: ``python -m nni_nastc.bench.run BENCH/config.yaml METHOD T SEED``.

A process for each run keeps the memory of one from another, and a crash of one from all others. It ends when the
process that started it is gone, which it knows by its standard input.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback

from nni_nastc.bench.plan import RESULT_FILE, Run, evaluate_config, find_run, train_config
from nni_nastc.config import BenchConfig, load_config
from nni_nastc.errors import NastcError, RunFolderError
from nni_nastc.evaluate import evaluate
from nni_nastc.evaluation.history import read_history
from nni_nastc.files import make_folder, read_object, write_json
from nni_nastc.runs import CONFIG_FILE
from nni_nastc.session import training_session
from nni_nastc.training import train

MEMORY_FILE = "memory.json"


class PeakMemory(Callback):
    """Write the peak memory of the training when it ends.

    On the CPU that is the most physical memory that the process ever held, PyTorch's own some 300 MB included; on a GPU
    the most that PyTorch ever had allocated there.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / MEMORY_FILE

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write it."""
        device = pl_module.device
        used = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else peak_resident_bytes()
        write_json(self.path, {"peak_bytes": used, "device": device.type})


def peak_resident_bytes() -> int:
    """Return the most physical memory that this process has held.

    It is Linux' ``VmHWM``: ``ru_maxrss`` begins with the memory of the process that started this one.
    """
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def execute(config: BenchConfig, run: Run, callbacks: Sequence[Callback] = ()) -> dict[str, Any]:
    """Train and evaluate, or go on with it.

    Parameters
    ----------
    config : BenchConfig
        The bench.
    run : Run
        One of its runs. The folder gets what ``nastc train`` and ``nastc evaluate`` write, and ``result.json``.
    callbacks : sequence of Callback
        Further callbacks of Lightning for the training.

    Returns
    -------
    dict
        The content of ``result.json``.
    """
    if run.finished:
        return run.result()
    trained = train(train_config(config, run), [PeakMemory(run.folder), *callbacks])
    scores = evaluate(evaluate_config(config, run))
    history = read_history(run.folder, config.epochs)
    result = {
        "method": run.method,
        "timesteps": run.timesteps,
        "seed": run.seed,
        "metric": history["metric"],
        "score": scores[history["metric"]],
        "parameters": trained["parameters"],
        "train_seconds": sum(entry["seconds"] for entry in history["epochs"]),
        **read_object(run.folder / MEMORY_FILE, RunFolderError),
    }
    write_json(run.folder / RESULT_FILE, result)
    return result


def start(config: BenchConfig, run: Run) -> str:
    """Do a run in a process of its own, and wait for its end.

    Returns
    -------
    str
        Why it failed, in one line; nothing if it did not. All that it said is in ``NAME.log`` beside its folder.
    """
    command = [sys.executable, "-m", "nni_nastc.bench.run", str(config.output / CONFIG_FILE)]
    command += ["--", run.method, str(run.timesteps), str(run.seed)]
    make_folder(run.folder.parent)
    log = run.folder.with_name(f"{run.folder.name}.log")
    with open(log, "w", encoding="utf-8") as stream:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=stream, stderr=stream)
        try:
            code = process.wait()
        finally:
            process.kill()
            process.wait()
    if code == 0:
        return ""
    said = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    how = f"signal {-code}" if code < 0 else f"exit code {code}"
    return said[-1] if said and code > 0 else f"ended by {how}; see {log}"


def main(argv: Sequence[str] | None = None) -> None:
    """Do the run that the arguments name; an error of the user's is told in one line."""
    parser = argparse.ArgumentParser(prog="bench run", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("config", type=Path, help="config.yaml of a bench")
    parser.add_argument("method")
    parser.add_argument("timesteps", type=int)
    parser.add_argument("seed", type=int)
    arguments = parser.parse_args(argv)
    threading.Thread(target=_end_with_the_parent, daemon=True).start()
    try:
        config = load_config(BenchConfig, arguments.config)
        with training_session():
            execute(config, find_run(config, arguments.method, arguments.timesteps, arguments.seed))
    except NastcError as problem:
        parser.exit(2, f"{problem}\n")
    except KeyboardInterrupt:
        parser.exit(130, "interrupted\n")


def _end_with_the_parent() -> None:
    """Wait for the end of standard input, which comes when the starting process ends, however it ends."""
    os.read(sys.stdin.fileno(), 1)
    os._exit(1)


if __name__ == "__main__":
    main()
