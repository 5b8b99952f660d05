"""Experiment files of NNI, checked before anything starts."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from nni.common.hpo_utils.validation import validate_search_space
from nni.experiment.config import ExperimentConfig, utils
from nni.tools.package_utils import get_all_algo_meta
from nni.tools.package_utils.tuner_factory import create_builtin_class_instance

from nni_nastc.config import load_yaml, parse_override, set_value
from nni_nastc.errors import ConfigError, ExperimentError, did_you_mean, first_line
from nni_nastc.experiments.server import LOOPBACK
from nni_nastc.session import without_logs

_KEYS = (
    "experimentName", "searchSpaceFile", "searchSpace", "trialCommand", "trialCodeDirectory", "trialConcurrency",
    "trialGpuNumber", "maxExperimentDuration", "maxTrialNumber", "maxTrialDuration", "nniManagerIp", "debug",
    "logLevel", "experimentWorkingDirectory", "tunerGpuIndices", "tuner", "assessor", "trainingService",
    "sharedStorage",
)  # fmt: skip


def is_experiment(values: Any) -> bool:
    """Tell whether the content of a YAML file is an experiment of NNI, and no configuration of ours."""
    return isinstance(values, dict) and ("trialCommand" in values or "trainingService" in values)


def load_experiment(
    path: Path, overrides: Sequence[str] = (), *, open_to_network: bool = False
) -> ExperimentConfig:
    """Read an experiment file.

    Parameters
    ----------
    path : Path
        The YAML file. Its relative paths start at its folder.
    overrides : sequence of str
        ``key=value`` with dotted keys (``maxTrialNumber=4``).
    open_to_network : bool
        Whether other machines dial this one; if not, they get tunnels, for which SSH keys are needed.

    Returns
    -------
    ExperimentConfig
        As NNI understands it. On this machine ``python`` at the start of its trial command is the one that runs now,
        whatever the ``PATH``.

    Raises
    ------
    ConfigError
        If the file is missing or broken, names a tuner that does not exist, or machines that no tunnel reaches.
    ExperimentError
        If it asks for GPUs that this machine does not have.
    """
    values = load_yaml(path)
    for override in overrides:
        set_value(values, *parse_override(override))
    if not is_experiment(values):
        raise ConfigError(f"{path} is no experiment file of NNI: it has neither trialCommand nor trainingService")
    if unknown := [str(key) for key in values if _plain(key) not in map(_plain, _KEYS)]:
        told = "; ".join(f"unknown key {key}{did_you_mean(key, _KEYS)}" for key in unknown)
        raise ConfigError(f"{path}: {told}")
    if not isinstance(values.get("trainingService", {}), dict):
        raise ConfigError(f"{path}: trainingService must be a mapping, got {values['trainingService']!r}")
    _check_algorithms(path, values)
    local = _platform(values) == "local"
    if local:
        _check_gpus(values)
    elif _platform(values) == "remote" and not open_to_network:
        _check_tunnels(path, values)
        values["nniManagerIp"] = LOOPBACK
    utils.set_base_path(path.absolute().parent)
    try:
        config = ExperimentConfig(**values).canonical_copy()
        validate_search_space(config.search_space, raise_exception=True)
        _check_choices(config.search_space)
        _try_algorithms(config)
    except (AttributeError, ValueError, TypeError, AssertionError, KeyError, OSError) as problem:  # NNI raises them all
        reason = " ".join(str(problem).split()) or _rule(problem)
        raise ConfigError(f"{path}: {reason}; see NNI's reference of experiment files") from None
    finally:
        utils.unset_base_path()
    if local:
        _use_this_python(config)
    return config


def _check_algorithms(path: Path, values: dict[str, Any]) -> None:
    """Refuse tuners and assessors that NNI does not have; it would only say so in a log."""
    for kind in ("tuner", "assessor"):
        name = values[kind].get("name") if isinstance(values.get(kind), dict) else None
        if name is None:
            continue
        known = [meta.name for meta in get_all_algo_meta() if meta.algo_type == kind]
        if str(name).lower() not in map(str.lower, known) and str(name).lower() != "_none_":
            raise ConfigError(
                f"{path}: {kind}.name: unknown {name!r}, known are {', '.join(known)}{did_you_mean(str(name), known)}"
            )


def _check_choices(search_space: Any) -> None:
    """Refuse choices of nothing, of which NNI's tuners die without a word."""
    for name, given in (search_space or {}).items():
        if not isinstance(given, dict) or given.get("_type") != "choice":
            continue
        if not given["_value"]:
            raise ValueError(f"searchSpace: {name} is a choice of nothing")
        for value in given["_value"]:
            if isinstance(value, dict):
                _check_choices({key: nested for key, nested in value.items() if key != "_name"})


def _try_algorithms(config: ExperimentConfig) -> None:
    """Build NNI's own tuner and assessor once: NNI would tell of wrong options only after it has started.

    Advisors (Hyperband, BOHB) are left out: they talk to the manager as soon as they are built.
    """
    advisors = {meta.name.lower() for meta in get_all_algo_meta() if meta.is_advisor}
    for kind in ("tuner", "assessor"):
        algorithm = getattr(config, kind)
        if algorithm is None or not algorithm.name or algorithm.name.lower() in {"_none_", *advisors}:
            continue
        try:
            with without_logs("nni"):  # of the seed that it draws
                create_builtin_class_instance(algorithm.name, algorithm.class_args, f"{kind}s")
        except Exception as problem:  # of whatever kind the algorithm raises
            raise ValueError(f"{kind} {algorithm.name}: {first_line(problem)}") from None


def _rule(problem: BaseException) -> str:
    """Return the line of NNI's that was not fulfilled, for want of words."""
    return traceback.extract_tb(problem.__traceback__)[-1].line or type(problem).__name__


def _platform(values: dict[str, Any]) -> str | None:
    service = values.get("trainingService")
    return service.get("platform") if isinstance(service, dict) else None


def _check_tunnels(path: Path, values: dict[str, Any]) -> None:
    """Refuse what a tunnel cannot be opened with: OpenSSH asks nobody for a password here."""
    service = {_plain(key): value for key, value in values["trainingService"].items()}
    machines = service.get("machinelist") or []
    if any("password" in machine for machine in machines if isinstance(machine, dict)):
        raise ConfigError(f"{path}: machineList: a tunnel needs a key, got a password; give sshKeyFile instead")
    if service.get("reusemode"):
        raise ConfigError(f"{path}: trainingService.reuseMode: true has no tunnels; remove the line")
    if shutil.which("ssh") is None:
        raise ExperimentError("trials on other machines need OpenSSH's ssh, which is not here; install it")


def _check_gpus(values: dict[str, Any]) -> None:
    """Refuse trials that would wait forever for GPUs that are not there."""
    wanted = values.get("trialGpuNumber") or values["trainingService"].get("trialGpuNumber") or 0
    there = torch.cuda.device_count()
    if isinstance(wanted, int) and wanted > there:
        raise ExperimentError(
            f"trialGpuNumber is {wanted}, PyTorch can use {there} GPUs on this machine; set it to {there}"
            f"{' or less' if there else ''}"
        )


def _use_this_python(config: ExperimentConfig) -> None:
    """Run the trials with the Python that runs now, where the command leaves it to the ``PATH``."""
    python = shlex.quote(sys.executable)
    command = re.sub(r"^python3?(?=\s)", lambda match: python, str(config.trial_command))
    config.trial_command = command
    config.training_service.trial_command = command


def _plain(key: Any) -> str:
    """Return a key as NNI compares it."""
    return str(key).lower().replace("_", "")
