"""Score a trained network, or a file of predictions, on a part of the videos."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nni_nastc.bundle import Bundle, find_checkpoint, load_bundle, require_classes
from nni_nastc.config import EvaluateConfig, PredictionsConfig, load_config
from nni_nastc.data.annotations import Annotations, load_annotations
from nni_nastc.data.datamodule import VideoSet
from nni_nastc.data.dataset import make_loader, targets_of
from nni_nastc.devices import choose_device, local_device
from nni_nastc.distributed import is_main, process_group
from nni_nastc.errors import ConfigError, DataError, FeatureStoreError, RunFolderError
from nni_nastc.evaluation.metrics import accuracy, mean_average_precision
from nni_nastc.evaluation.scoring import METRIC_NAMES, score_videos
from nni_nastc.evaluation.submission import read_submission, write_submission
from nni_nastc.files import make_folder, write_json
from nni_nastc.runs import CONFIG_FILE

METRICS_FILE = "metrics.json"
PREDICTIONS_FILE = "predictions.txt"


def complete(config: EvaluateConfig) -> EvaluateConfig:
    """Fill in what was not given: the data of the checkpoint's training, and a folder beside the checkpoint.

    Raises
    ------
    CheckpointError
        If there is no checkpoint.
    ConfigError
        If something is missing that the checkpoint does not tell.
    """
    checkpoint = find_checkpoint(config.checkpoint)
    trained_on: Any = load_bundle(checkpoint)[0].training
    for key in ("config", "data"):
        trained_on = trained_on.get(key) if isinstance(trained_on, Mapping) else None
    trained_on = trained_on if isinstance(trained_on, Mapping) else {}
    keys = ("store", "annotations", "dataset", "target")
    values = {"checkpoint": checkpoint, "output": Path(checkpoint).parent / "evaluation"}
    values |= {key: trained_on[key] for key in keys if trained_on.get(key) is not None}
    values |= config.model_dump(exclude_none=True, exclude={"checkpoint"})
    if missing := [key for key in ("store", "annotations") if key not in values]:
        raise ConfigError(f"{' and '.join(missing)} must be given: {checkpoint} does not tell what it was trained on")
    return load_config(EvaluateConfig, None, defaults=values)


def evaluate(config: EvaluateConfig) -> dict[str, Any]:
    """Score a checkpoint, on the test part by default, and write ``metrics.json`` and ``predictions.txt``.

    The class scores of a video are the average over 10 random draws of its superframes (Timeception's protocol); the
    metric is computed once over all videos. Processes that torchrun starts share the work.

    Parameters
    ----------
    config : EvaluateConfig
        What to score.

    Returns
    -------
    dict
        The content of ``metrics.json``: ``accuracy`` or ``mAP`` in [0, 1], the loss, the scores of single classes, and
        the classes that have none. Where a class stands for nothing happening, as Breakfast's SIL, also the mAP
        without it, ``mAP_without_SIL``.

    Raises
    ------
    RunFolderError
        If the output folder is that of a search or a training, whose own results must stay.
    NastcError
        If the checkpoint, the store and the annotations do not fit together.
    """
    config = complete(config)
    assert config.output is not None
    _check_output(config.output)
    device = local_device("auto") if config.device == "auto" else choose_device(config.device)
    bundle, model = load_bundle(config.checkpoint)
    videos = _open_videos(config, bundle, device)
    records = videos.records(config.subset, unlabelled=config.unlabelled)
    videos.require_labels(records, f"the {config.subset} part")
    loader = make_loader(
        videos.dataset(records, "random", draws=config.draws),
        batch_size=config.batch_size,
        shuffle=False,
        workers=config.workers,
        seed=config.seed,
    )
    with process_group(device):
        result = score_videos(model.to(device), loader, videos.task, device)
    metrics = {
        **_scores(result.scores, result.targets, videos.annotations),
        "loss": result.loss,
        "videos": len(records),
        "subset": config.subset,
        "draws": config.draws,
        "checkpoint": str(config.checkpoint),
    }
    if is_main():
        make_folder(config.output)
        write_submission(config.output / PREDICTIONS_FILE, [record.id for record in records], result.scores)
        write_json(config.output / METRICS_FILE, metrics)
    return metrics


def score_predictions(config: PredictionsConfig) -> dict[str, Any]:
    """Score a file of predictions; write ``metrics.json`` if there is a folder for it.

    Parameters
    ----------
    config : PredictionsConfig
        What to score. The format of the file is that of :mod:`nni_nastc.evaluation.submission`.

    Returns
    -------
    dict
        As of :func:`evaluate`, without what only a network has.

    Raises
    ------
    NastcError
        With all problems of the annotations, or of the predictions.
    """
    if config.output is not None:
        _check_output(config.output)
    annotations = load_annotations(config.annotations, config.target, dataset=config.dataset)
    records = annotations.of(config.subset, unlabelled=config.unlabelled)
    if not any(record.labels for record in records):
        raise DataError(f"no {config.subset} video of {config.annotations} has a label, so nothing can be scored")
    ids = [record.id for record in records]
    unscored = {record.id for record in annotations.records if record.subset == config.subset}.difference(ids)
    scores = read_submission(config.predictions, ids, len(annotations.classes), ignored=unscored)
    metrics = {
        **_scores(scores, targets_of(records, annotations.classes, annotations.task).numpy(), annotations),
        "videos": len(records),
        "subset": config.subset,
        "predictions": str(config.predictions),
    }
    if config.output is not None:
        make_folder(config.output)
        write_json(config.output / METRICS_FILE, metrics)
    return metrics


def _check_output(folder: Path) -> None:
    if (folder / CONFIG_FILE).exists():
        raise RunFolderError(
            f"the output folder {folder} holds another run, a search or a training, whose {METRICS_FILE} would be "
            "replaced; choose another output"
        )


def _open_videos(config: EvaluateConfig, bundle: Bundle, device: torch.device) -> VideoSet:
    """Open store and annotations, and refuse those that are not the network's."""
    assert config.store is not None
    assert config.annotations is not None
    videos = VideoSet.open(
        config.store,
        config.annotations,
        dataset=config.dataset or "json",
        target=config.target,
        timesteps=bundle.timesteps,
        seed=config.seed,
        cache=config.cache,
        device=device,
    )
    require_classes(bundle, videos.annotations.classes)
    if differing := bundle.backbone.differences(videos.store.settings):
        raise FeatureStoreError(
            f"the store {config.store} has other features than the checkpoint was trained on ({', '.join(differing)}); "
            "give the store that was extracted with the same settings"
        )
    return videos


def _scores(scores: np.ndarray, targets: np.ndarray, annotations: Annotations) -> dict[str, Any]:
    """Return the metric, the average precision or accuracy of each class that has one, and the classes without."""
    classes, background = annotations.classes, annotations.background
    name = METRIC_NAMES[annotations.task]
    if annotations.task == "multi-label":
        result = mean_average_precision(scores, targets)
        metrics, values, by_class = {name: result.mean_ap}, result.per_class, "average_precision"
    else:
        metrics, values, by_class = {name: accuracy(scores, targets)}, _recall(scores, targets), "accuracy_by_class"
    known = {label: float(value) for label, value in zip(classes, values, strict=True) if not np.isnan(value)}
    rest = [value for label, value in known.items() if label not in background]
    if 0 < len(rest) < len(known):
        metrics[f"{name}_without_{'_'.join(background)}"] = float(np.mean(rest))
    without = [label for label in classes if label not in known]
    return metrics | {by_class: known, "classes_without_videos": without}


def _recall(scores: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Return the share of each class' videos (K,) that are recognised; NaN for a class without videos."""
    num_classes = scores.shape[1]
    counts = np.bincount(targets, minlength=num_classes)
    hits = np.bincount(targets, weights=scores.argmax(1) == targets, minlength=num_classes)
    return np.divide(hits, counts, out=np.full(num_classes, np.nan), where=counts > 0)
