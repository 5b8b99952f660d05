"""The command of a trial: ``python -m nni_nastc.search.trial TASK [--config FILE] [key=value ...]``.

The tasks are ``search`` (a whole one-shot search), ``cell`` (the training of one cell that NNI's tuner has sampled, see
:mod:`nni_nastc.experiments.cell_space`), ``train`` (the training of a given network) and ``bench`` (one run of a bench:
``run.method``, ``run.seed``, and ``run.timesteps`` if the bench has several). Keys are those of ``nastc search``,
``nastc train`` and ``nastc bench``; the parameters of the tuner come last. A nested choice of NNI's is a whole section:
``{"strategy": {"_name": "TempDARTS", "warmup_epochs": 2}}``.

Every epoch and at the end the score on the validation videos is reported as NNI's default metric, with all other
metrics. In the trial's output folder, ``run`` is the folder of the search or the training, ``genotype.json`` and
``cell.png`` the cell, and ``tensorboard`` what TensorBoard reads. Outside NNI the same goes to the folder ``output``,
and metrics are only logged. A run of a bench is in the bench's folder ``output``, where ``nastc bench`` finds it; it
reports its score on the test part at the end, no other.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import logging
import os
import shutil
import sqlite3
import sys
import warnings
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nni_nastc.arguments import count
from nni_nastc.errors import ConfigError, ExperimentError, NastcError
from nni_nastc.search.trial_output import experiment_folder, show_to_tensorboard

if TYPE_CHECKING:
    from pytorch_lightning.callbacks import Callback

    from nni_nastc.config import DataConfig
    from nni_nastc.genotype import Genotype

DEFAULT_OUTPUT = Path("runs/trial")
"""Where a trial that is run by hand puts its results."""

_MODULES = ("nni", "numpy", "pydantic", "pytorch_lightning", "safetensors", "tensorboard", "torch", "yaml")

_logger = logging.getLogger("nni_nastc.trial")


def main(argv: Sequence[str] | None = None) -> None:
    """Run the trial. A wrong input is told in one line on stderr, with exit code 2: NNI marks the trial as failed."""
    parser = argparse.ArgumentParser(prog="trial", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("task", choices=("search", "cell", "train", "bench"), help="what the trial does")
    parser.add_argument("--config", help="YAML file of nastc search, train or bench")
    parser.add_argument("--threads", type=count, help="CPU threads; default: cores / concurrency of the experiment")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="values in place of the file's")
    arguments = parser.parse_intermixed_args(argv)
    _log_to_stdout()
    try:
        check_packages()  # before anything is imported that may be missing
        set_threads(arguments.threads)
        run_trial(arguments.task, arguments.config, arguments.overrides)
    except (NastcError, OSError) as error:
        parser.exit(2, f"trial: {error}\n")
    except KeyboardInterrupt:
        parser.exit(130, "trial: interrupted\n")


def _log_to_stdout() -> None:
    """Show what the package itself logs, and nothing of it twice."""
    handler = logging.StreamHandler(sys.stdout)
    package = logging.getLogger("nni_nastc")
    package.addHandler(handler)
    package.setLevel(logging.INFO)
    package.propagate = False


def run_trial(task: str, config_file: str | None, overrides: Sequence[str]) -> dict[str, Any]:
    """Take the parameters from NNI, do the task, report.

    Parameters
    ----------
    task : str
        "search", "cell", "train" or "bench".
    config_file : str or None
        YAML file that the parameters change.
    overrides : sequence of str
        ``key=value``; the parameters of the tuner replace them. The key ``output`` is the trial's folder, if it is run
        by hand; that of a bench is the bench's.

    Returns
    -------
    dict
        The final result, as reported: ``default``, all metrics of the last epoch, and the cell in words.

    Raises
    ------
    NastcError
        If anything that was given is wrong.
    """
    import nni

    from nni_nastc.config import parse_override
    from nni_nastc.search.reporting import ReportMetrics, WriteTensorBoard
    from nni_nastc.session import training_session

    with warnings.catch_warnings():  # that it is run by hand is no news to who does it
        warnings.filterwarnings("ignore", message="(?s).*Running trial code without runtime", category=RuntimeWarning)
        parameters = read_parameters(nni.get_next_parameter() or {})
    _logger.info("parameters: %s", json.dumps(parameters))
    values = {**dict(map(parse_override, overrides)), **parameters}
    by_hand = DEFAULT_OUTPUT if task == "bench" else values.get("output", DEFAULT_OUTPUT)
    folder = Path(os.environ.get("NNI_OUTPUT_DIR") or by_hand)
    show_to_tensorboard(folder)
    curves = WriteTensorBoard(folder / "tensorboard")
    if task != "bench":
        values["output"] = str(folder / "run")
    callbacks = [ReportMetrics(), curves]
    with training_session():
        if task == "bench":
            result = _bench(config_file, values, [curves])
        elif task == "search":
            result = _search(config_file, values, folder, callbacks)
        else:
            if task == "cell":
                _take_cell(values, folder)
            result = _train(config_file, values, folder, callbacks)
        nni.report_final_result(result)
    _logger.info("final result: %s", json.dumps(result))
    return result


def read_parameters(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a tuner has sampled as values of a configuration; ``_name`` of a nested choice becomes ``name``."""
    return {
        name: {"name" if key == "_name" else key: part for key, part in value.items()}
        if isinstance(value, Mapping) else value
        for name, value in parameters.items()
    }  # fmt: skip


def check_packages() -> None:
    """Refuse a machine on which the trial cannot run.

    Raises
    ------
    ExperimentError
        If packages are missing, or NNI is not the release that this plugin is for.
    """
    if missing := [name for name in _MODULES if importlib.util.find_spec(name) is None]:
        raise ExperimentError(
            f"the Python of this machine ({sys.executable}) lacks {', '.join(missing)}; "
            "install nni_nastc there with pip, or name the right Python in trialCommand"
        )
    if (version := metadata.version("nni")) != "3.0":
        raise ExperimentError(f"nni_nastc needs NNI 3.0, this machine has {version}; run there: pip install nni==3.0")


def check_data(data: DataConfig) -> None:
    """Refuse features and labels that this machine cannot see.

    Raises
    ------
    ExperimentError
        If one of them is missing.
    """
    for key, path in (("data.store", data.store), ("data.annotations", data.annotations)):
        if not path.exists():
            raise ExperimentError(
                f"{key} is not there: {path.resolve()}; give the right path in the line of trialCommand that has "
                f"{key}, or make the example's data first: nastc demo --out runs/demo"
            )


def set_threads(threads: int | None = None) -> int | None:
    """Share the cores between the trials of an experiment, before PyTorch starts its threads.

    Parameters
    ----------
    threads : int, optional
        How many this trial takes. By default ``OMP_NUM_THREADS`` if it is set, else the machine's cores divided by the
        experiment's concurrency; on another machine than the manager's, the concurrency is not known, and nothing is
        set.

    Returns
    -------
    int or None
        What was set.
    """
    if threads is None and "OMP_NUM_THREADS" not in os.environ and (concurrency := _concurrency()):
        threads = max(1, len(os.sched_getaffinity(0)) // concurrency)
    if threads is not None:
        os.environ["OMP_NUM_THREADS"] = str(threads)
    return threads


def _concurrency() -> int | None:
    """Return how many trials the experiment runs at a time, from its database."""
    experiment = experiment_folder()
    if experiment is None:
        return None
    database = experiment / "db" / "nni.sqlite"
    with suppress(sqlite3.Error, ValueError, KeyError, TypeError):
        with closing(sqlite3.connect(f"{database.resolve().as_uri()}?mode=ro", uri=True)) as connection:
            newest = "select params from ExperimentProfile order by revision desc limit 1"
            return int(json.loads(connection.execute(newest).fetchone()[0])["trialConcurrency"])
    return None


def _search(
    config_file: str | None, values: dict[str, Any], folder: Path, callbacks: Sequence[Callback]
) -> dict[str, Any]:
    """Search a cell by the direct path: an experiment within one would file the metrics under other trials."""
    from nni_nastc.config import SearchConfig, load_config

    config = load_config(SearchConfig, config_file, values)
    check_data(config.data)

    from nni_nastc.search.runner import run_search
    from nni_nastc.search.strategies import MULTI_TRIAL

    if config.strategy.name in MULTI_TRIAL:
        raise ConfigError(
            f"strategy.name is {config.strategy.name}, whose networks are trials themselves; a trial searches with a "
            "one-shot strategy: choose one, or run nastc search"
        )
    genotype = run_search(config, callbacks)
    _logger.info("%s", "\n".join(genotype.lines))
    for name in ("genotype.json", "cell.png"):
        shutil.copy(config.output / name, folder / name)
    return {**_last_metrics(config.output, config.epochs), **_judged(config.output), **_words(genotype)}


def _judged(run: Path) -> dict[str, float]:
    """Return the scores of the cell itself, where it is the best of some; the last epoch's are those of another."""
    from nni_nastc.errors import RunFolderError
    from nni_nastc.files import read_object
    from nni_nastc.search.judging import SAMPLES_FILE

    if not (run / SAMPLES_FILE).is_file():
        return {}
    best = read_object(run / SAMPLES_FILE, RunFolderError)["samples"][0]
    return {"default": best["score"], "val_score": best["score"], "val_loss": best["loss"]}


def _train(
    config_file: str | None, values: dict[str, Any], folder: Path, callbacks: Sequence[Callback]
) -> dict[str, Any]:
    """Train the network that the configuration names."""
    from nni_nastc.config import TrainConfig, load_config
    from nni_nastc.genotype import Genotype
    from nni_nastc.models import find_network
    from nni_nastc.plots import draw_cell

    config = load_config(TrainConfig, config_file, values)
    if config.final:
        raise ConfigError("a trial is scored on the held-out part, which final=true trains on; set it to false")
    check_data(config.data)

    from nni_nastc.training import train

    metrics = train(config, callbacks)
    result = {**_last_metrics(config.output, config.epochs), "parameters": metrics["parameters"]}
    network = find_network(config.genotype)
    if isinstance(network, Genotype):
        network.to_json(folder / "genotype.json")
        draw_cell(network, folder / "cell.png")
        result |= _words(network)
    return result


def _bench(config_file: str | None, values: dict[str, Any], callbacks: Sequence[Callback]) -> dict[str, Any]:
    """Do one run of a bench, in the bench's folder."""
    from nni_nastc.bench.plan import choose_run, resolve
    from nni_nastc.config import BenchConfig, load_config

    chosen = {name: values.pop(f"run.{name}", None) for name in ("method", "timesteps", "seed")}
    config = resolve(load_config(BenchConfig, config_file, values))
    check_data(config.data)
    run = choose_run(config, **chosen)

    from nni_nastc.bench.run import execute
    from nni_nastc.bench.runner import claim

    claim(config)
    result = execute(config, run, callbacks)
    return {"default": result["score"], **result}


def _take_cell(values: dict[str, Any], folder: Path) -> None:
    """Take the choices of a cell out of the values, and set its file in their place."""
    from nni_nastc.experiments.cell_space import cell_of, is_cell_parameter
    from nni_nastc.files import make_folder

    genotype = cell_of({name: values.pop(name) for name in list(values) if is_cell_parameter(name)})
    make_folder(folder)
    genotype.to_json(folder / "genotype.json")
    values["genotype"] = str(folder / "genotype.json")


def _last_metrics(run: Path, epochs: int) -> dict[str, Any]:
    """Return the metrics of the last epoch in NNI's form."""
    from nni_nastc.evaluation.history import read_history
    from nni_nastc.search.reporting import nni_metrics

    return nni_metrics(read_history(run, epochs)["epochs"][-1])


def _words(genotype: Genotype) -> dict[str, str]:
    return {"cell": "; ".join(genotype.lines)}


if __name__ == "__main__":
    main()
