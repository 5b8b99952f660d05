"""Score a trained network on a part of the videos."""

from __future__ import annotations

from typing import Any

import numpy as np

from nni_nastc.bundle import load_bundle, require_classes
from nni_nastc.config import EvaluateConfig
from nni_nastc.data.datamodule import VideoSet
from nni_nastc.data.dataset import make_loader
from nni_nastc.devices import choose_device
from nni_nastc.errors import FeatureStoreError, RunFolderError
from nni_nastc.evaluation.metrics import mean_average_precision
from nni_nastc.evaluation.scoring import METRIC_NAMES, VideoScores, score_videos
from nni_nastc.files import make_folder, write_json
from nni_nastc.runs import CONFIG_FILE


def evaluate(config: EvaluateConfig) -> dict[str, Any]:
    """Score a checkpoint, on the test part by default, and write ``metrics.json``.

    The class scores of a video are the average over 10 random draws of its superframes (Timeception's protocol); the
    metric is computed once over all videos.

    Parameters
    ----------
    config : EvaluateConfig
        What to score.

    Returns
    -------
    dict
        The content of ``metrics.json``: ``accuracy`` or ``mAP`` in [0, 1], the loss, the scores of single classes, and
        the classes that have none.

    Raises
    ------
    RunFolderError
        If the output folder is that of a search or a training, whose own results must stay.
    NastcError
        If the checkpoint, the store and the annotations do not fit together.
    """
    if (config.output / CONFIG_FILE).exists():
        raise RunFolderError(
            f"the output folder {config.output} holds another run, a search or a training, whose metrics.json would be "
            "replaced; choose another output"
        )
    device = choose_device(config.device)
    bundle, model = load_bundle(config.checkpoint)
    videos = VideoSet.open(
        config.store,
        config.annotations,
        dataset=config.dataset,
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
    dataset = videos.dataset(videos.records(config.subset, unlabelled=config.unlabelled), "random", draws=config.draws)
    loader = make_loader(
        dataset, batch_size=config.batch_size, shuffle=False, workers=config.workers, seed=config.seed
    )
    result = score_videos(model.to(device), loader, videos.task, device)
    metrics = {
        METRIC_NAMES[videos.task]: result.metric,
        "loss": result.loss,
        "videos": len(result.scores),
        "subset": config.subset,
        "draws": config.draws,
        **_by_class(result, videos.annotations.classes),
        "checkpoint": str(config.checkpoint),
    }
    make_folder(config.output)
    write_json(config.output / "metrics.json", metrics)
    return metrics


def _by_class(result: VideoScores, classes: tuple[str, ...]) -> dict[str, Any]:
    """Return the average precision, or the accuracy, of each class that has one, and the classes that have none."""
    if result.task == "multi-label":
        values = mean_average_precision(result.scores, result.targets).per_class
        name = "average_precision"
    else:
        correct = result.scores.argmax(1) == result.targets
        counts = np.bincount(result.targets, minlength=len(classes))
        values = np.full(len(classes), np.nan)
        hits = np.bincount(result.targets, weights=correct, minlength=len(classes))
        np.divide(hits, counts, values, where=counts > 0)
        name = "accuracy_by_class"
    known = ~np.isnan(values)
    return {
        name: {label: float(value) for label, value in zip(classes, values, strict=True) if not np.isnan(value)},
        "classes_without_videos": [label for label, there in zip(classes, known, strict=True) if not there],
    }
