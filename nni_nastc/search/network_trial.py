"""A trial of a search by trials: ``python -m nni_nastc.search.network_trial FOLDER``, started by NNI.

It takes the number of its trial from NNI, trains that trial's cell as ``nastc train`` does, reports the score of every
epoch and of the last one, and writes how it ended into the folder of the search before it tells NNI. A trial that was
killed goes on after its last epoch when it is started again.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import nni

from nni_nastc.errors import ExperimentError, NastcError, RunFolderError
from nni_nastc.genotype import Genotype

if TYPE_CHECKING:
    from nni_nastc.search.trial_files import TrialFiles


def main(run: Path) -> None:
    """Train the cell of the trial that NNI names; a failure is written down and told in the trial's log."""
    # NNI stops trials with SIGINT, which Lightning would take for the end of a training.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    number = int(nni.get_next_parameter()["trial"])

    from nni_nastc.search.trial_files import TrialFiles

    files = TrialFiles(run, number)
    shutil.copy(files.cell, Path(os.environ["NNI_OUTPUT_DIR"], "genotype.json"))  # where nastc results looks for it
    if not files.outcome():  # NNI starts jobs again of which it did not see the end
        _train_or_fail(run, files)
    report(files)


def _train_or_fail(run: Path, files: TrialFiles) -> None:
    number = files.number
    try:
        train_network(run, files)
    except ExperimentError as problem:  # NNI's manager has died, which says nothing of the network
        raise SystemExit(f"trial {number}: {problem}") from None
    except NastcError as problem:
        files.fail(str(problem))
        raise SystemExit(f"trial {number}: {problem}") from None
    except Exception as problem:
        files.fail(f"{type(problem).__name__}: {str(problem).partition(chr(10))[0]}")
        raise


def train_network(run: Path, files: TrialFiles) -> None:
    """Train, or go on with it; report every epoch."""
    from nni_nastc.config import SearchConfig, load_config
    from nni_nastc.files import read_object
    from nni_nastc.runs import CONFIG_FILE, SPLIT_FILE
    from nni_nastc.search.reporting import ReportMetrics, WriteTensorBoard
    from nni_nastc.search.trial_files import trial_config
    from nni_nastc.search.trial_output import show_to_tensorboard
    from nni_nastc.session import training_session
    from nni_nastc.training import train

    config = trial_config(load_config(SearchConfig, run / CONFIG_FILE), files)
    halves = read_object(run / SPLIT_FILE, RunFolderError)
    output = Path(os.environ["NNI_OUTPUT_DIR"])
    show_to_tensorboard(output)
    board = WriteTensorBoard(output / "tensorboard")
    with training_session():
        train(config, [ReportMetrics(), board], held_out=frozenset(halves["alphas"]))
    files.drop_state()


def report(files: TrialFiles) -> None:
    """Tell NNI the score, and the cell in words."""
    outcome = files.outcome()
    if outcome and outcome.score is not None:
        cell = "; ".join(Genotype.from_json(files.cell).lines)
        nni.report_final_result({"default": outcome.score, "cell": cell})


if __name__ == "__main__":
    main(Path(sys.argv[1]))
