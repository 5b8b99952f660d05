"""Extraction on many GPUs and machines: Lightning starts the processes, or takes up those that are there."""

from __future__ import annotations

import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import DDPStrategy, Strategy

from nni_nastc.devices import check_trainer
from nni_nastc.distributed import check_processes, is_main
from nni_nastc.errors import ConfigError
from nni_nastc.features.backbone import Backbone
from nni_nastc.features.extractor import (
    ExtractionJob,
    ExtractionReport,
    ExtractionSettings,
    ProgressCallback,
    Videos,
)
from nni_nastc.features.feature_batches import FeatureExtractor

_ACCELERATORS = {"auto": "auto", "cpu": "cpu", "cuda": "gpu"}
# Who has less to do waits for the others at the end (our choice: as long as it takes).
_PATIENCE = timedelta(days=30)
_ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_GRACE_S = 20.0


def extract_on(
    videos: Videos,
    out: Path | str,
    backbone: Backbone,
    settings: ExtractionSettings | None = None,
    *,
    devices: int | str = "auto",
    num_nodes: int = 1,
    progress: ProgressCallback | None = None,
) -> ExtractionReport:
    """Extract with several processes, one a device; each video goes to one of them.

    Lightning starts the processes of one machine by running this program again; those of many machines are started by
    torchrun or SLURM. All return the same report. The store is on a disk that all machines share.

    Parameters
    ----------
    videos, out, backbone, settings
        See :func:`nni_nastc.features.extractor.extract`. The settings' device is "auto", "cpu" or "cuda".
    devices : int or str
        Of each machine; "auto" for all GPUs, or one process without any.
    num_nodes : int
        Machines.
    progress : callable, optional
        Is told how far the share of process 0 is.

    Returns
    -------
    ExtractionReport
        What all processes have done, in each of them.

    Raises
    ------
    NastcError
        As :func:`nni_nastc.features.extractor.extract`; :class:`ModelError` where there are not as many devices, and
        :class:`ConfigError` where another number of processes was started, or the device has a number.
    """
    settings = settings or ExtractionSettings()
    if settings.device not in _ACCELERATORS:
        raise ConfigError(
            f"several processes take the devices auto, cpu or cuda, got {settings.device}; leave the number out"
        )
    accelerator = _ACCELERATORS[settings.device]
    check_processes(devices, num_nodes, "--devices", "--num-nodes")
    check_trainer(accelerator, devices, "32-true", "--devices", "--device")

    def job_on(device: torch.device) -> ExtractionJob:
        extractor = FeatureExtractor(backbone, replace(settings, device=str(device)))
        return ExtractionJob(videos, out, extractor, progress if is_main() else None)

    module = _Extraction(job_on)
    # Small messages only: Gloo carries them between CPUs and between GPUs alike.
    strategy = DDPStrategy(process_group_backend="gloo", timeout=_PATIENCE)
    trainer = pl.Trainer(
        accelerator=accelerator,
        devices=devices,
        num_nodes=num_nodes,
        strategy=strategy,
        use_distributed_sampler=False,  # videos are shared out by length
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    try:
        trainer.predict(module, return_predictions=False)
    except SystemExit as stop:
        _wait_for(module.ending)
        if stop.code == 128 + signal.SIGINT and is_main():
            raise KeyboardInterrupt from None
        raise
    _unwatched(strategy)
    assert module.report is not None, "Lightning has torn the module down"
    return module.report


def _unwatched(strategy: Strategy) -> list[subprocess.Popen]:
    """Return the processes that Lightning has started, which may end from now on, whatever their exit code.

    Lightning would kill this process when it sees that one of them has ended otherwise than well.
    """
    watched = getattr(strategy.launcher, "procs", [])
    processes = [*watched]
    watched.clear()
    return processes


def _wait_for(processes: Sequence[subprocess.Popen]) -> None:
    """Wait for processes that were told to end, and kill those that cannot hear it because they wait for others."""
    for process in processes:
        try:
            process.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class _Extraction(pl.LightningModule):
    """A job in the shape that Lightning runs.

    Parameters
    ----------
    job_on : callable
        Device -> job.
    """

    def __init__(self, job_on: Callable[[torch.device], ExtractionJob]) -> None:
        super().__init__()
        self._job_on = job_on
        self._job: ExtractionJob | None = None
        self.report: ExtractionReport | None = None
        self.ending: Sequence[subprocess.Popen] = ()

    def predict_dataloader(self) -> Iterator[int]:
        """Return the numbers of this process's videos, when all processes have met."""
        self._end_on_signals()
        self._job = self._job_on(self.trainer.strategy.root_device)
        self._share = self._job.prepare()
        return iter(range(len(self._share)))  # without a length, because Lightning would not run an empty loader

    def _end_on_signals(self) -> None:
        """End all processes of this machine, with their files cleared away, on Ctrl-C and SIGTERM.

        Lightning, while it predicts, kills the others at once on Ctrl-C, and takes only a note of SIGTERM.
        """
        if threading.current_thread() is not threading.main_thread():
            return

        def leave(number: int, frame: object) -> None:
            for each in _ENDING_SIGNALS:  # a second one would interrupt the clearing
                signal.signal(each, signal.SIG_IGN)
            self.ending = _unwatched(self.trainer.strategy)
            for process in self.ending:
                process.terminate()
            raise SystemExit(128 + number)

        for each in _ENDING_SIGNALS:
            signal.signal(each, leave)  # Lightning puts back what was there before

    def predict_step(self, number: int) -> int:
        """Extract a video, and return its number, because Lightning warns of steps that return nothing."""
        assert self._job is not None
        self._job.extract(self._share[number])
        return number

    def teardown(self, stage: str) -> None:
        """Sum up, before the processes part."""
        assert self._job is not None
        self.report = self._job.report()
