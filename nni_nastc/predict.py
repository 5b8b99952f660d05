"""Predict the classes of a video straight from its file, and when the video speaks for them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from nni_nastc.bundle import Bundle
from nni_nastc.data.reading import network_input
from nni_nastc.devices import choose_device
from nni_nastc.errors import CheckpointError, DataError, WeightsError
from nni_nastc.evaluation.occlusion import Evidence, occlusion_evidence
from nni_nastc.evaluation.scoring import probabilities
from nni_nastc.features.backbone import Backbone
from nni_nastc.features.extractor import ExtractionSettings, ProgressCallback, extract_video
from nni_nastc.features.superframes import random_windows, uniform_windows

SEED = 0
"""Of the random draws, so that a prediction is the same every time."""

NAME_LENGTH = 80
"""Of a class in a caption at most, so that its probability is still in the picture."""


@dataclass(frozen=True)
class Prediction:
    """What a network says of one video.

    Parameters
    ----------
    class_names : tuple of str
        The K classes.
    scores : ndarray, (K,)
        Their probabilities: they sum to 1 for a single label, and each is its own for multiple labels.
    duration_s : float
        Seconds of the video that were seen.
    evidence : Evidence or None
        What speaks for the classes over time.
    """

    class_names: tuple[str, ...]
    scores: np.ndarray
    duration_s: float
    evidence: Evidence | None = None

    def top(self, count: int) -> list[int]:
        """Return the numbers of the most probable classes, best first."""
        return [int(number) for number in np.argsort(-self.scores, kind="stable")[:count]]

    def captions(self, numbers: list[int]) -> list[str]:
        """Return names and probabilities of classes, such as "make tea (92.1 %)", for pictures; long names are cut."""
        names = [name if len(name) <= NAME_LENGTH else f"{name[: NAME_LENGTH - 3]}..." for name in self.class_names]
        return [f"{names[n]} ({_percent(self.scores[n])})" for n in numbers]

    def to_dict(self, top: int | None = None) -> dict[str, Any]:
        """Return JSON values: the scores, best first, and the evidence of the same classes.

        ``duration_s``; ``classes``, each with ``name`` and ``score``, its probability; with evidence also ``timeline``:
        ``times_s``, start and end of the S stretches, and ``evidence``, by class name the S natural log-odds that each
        stretch adds to the class (see :mod:`nni_nastc.evaluation.occlusion`).

        Parameters
        ----------
        top : int, optional
            How many classes; all by default.
        """
        numbers = self.top(len(self.scores) if top is None else top)
        value: dict[str, Any] = {
            "duration_s": self.duration_s,
            "classes": [{"name": self.class_names[n], "score": float(self.scores[n])} for n in numbers],
        }
        if self.evidence is not None:
            value["timeline"] = {
                "times_s": self.evidence.times.tolist(),
                "evidence": {self.class_names[n]: self.evidence.values[n].tolist() for n in numbers},
            }
        return value


def predict_video(
    path: Path | str,
    bundle: Bundle,
    module: nn.Module,
    backbone: Backbone,
    *,
    draws: int | None = None,
    timeline: bool = False,
    batch_size: int = 4,
    fps: float | None = None,
    device: str = "auto",
    progress: ProgressCallback | None = None,
) -> Prediction:
    """Decode a video, extract its features as those of the training were, and classify them.

    Parameters
    ----------
    path : Path or str
        The video: a file, or a folder of numbered images.
    bundle, module
        From :func:`nni_nastc.bundle.load_bundle`.
    backbone : Backbone
        From :func:`nni_nastc.features.weights.load_i3d`, with the weights that the checkpoint names.
    draws, timeline, batch_size
        See :func:`predict_features`.
    fps : float, optional
        Images a second of a folder; files tell it themselves.
    device : str
        "auto", "cpu", "cuda", "cuda:1", ...
    progress : callable, optional
        As of :func:`nni_nastc.features.extractor.extract`.

    Returns
    -------
    Prediction
        Scores, and the evidence if asked for.

    Raises
    ------
    WeightsError
        If the backbone has other weights than the features that the checkpoint was trained on.
    VideoError
        If the video is missing, damaged or too short.
    CheckpointError
        If the features have another shape than the checkpoint's.
    """
    check_backbone(bundle, backbone)
    settings = ExtractionSettings.of_store(bundle.backbone, fps=fps, device=device)
    features, times = extract_video(path, backbone, settings, progress=progress)
    return predict_features(
        features, times, bundle, module, draws=draws, timeline=timeline, batch_size=batch_size, device=device
    )


def predict_features(
    features: np.ndarray,
    times: np.ndarray,
    bundle: Bundle,
    module: nn.Module,
    *,
    draws: int | None = None,
    timeline: bool = False,
    batch_size: int = 4,
    device: str = "auto",
) -> Prediction:
    """Classify a video of which the features are known.

    Parameters
    ----------
    features : ndarray, (windows, C, H, W)
        All superframes of the video.
    times : ndarray, (windows, 2)
        Their start and end in seconds.
    bundle, module
        From :func:`nni_nastc.bundle.load_bundle`.
    draws : int, optional
        Random draws of T superframes whose probabilities are averaged, by default as many as the checkpoint says. 1 is
        the middle of each segment instead of a random draw.
    timeline : bool
        Whether to find the evidence over time too (it costs about 20 more draws).
    batch_size : int
        Draws that are run together.
    device : str
        "auto", "cpu", "cuda", "cuda:1", ...

    Returns
    -------
    Prediction
        The same for the same features, whatever the batch size.

    Raises
    ------
    CheckpointError
        If the features have another shape than the checkpoint's.
    DataError
        If there are no draws, or the features are not finite.
    """
    if features.shape[1:] != bundle.feature_shape:
        raise CheckpointError(
            f"the checkpoint takes features (C, H, W) = {bundle.feature_shape}, got {features.shape[1:]}; "
            "extract them as its training did"
        )
    draws = bundle.draws if draws is None else draws
    if draws < 1:
        raise DataError(f"a prediction takes at least 1 draw, got {draws}")
    where = choose_device(device)
    module = module.to(where).eval()
    with torch.inference_mode():
        scores = _mean_scores(features, bundle, module, draws, batch_size, where)
        evidence = occlusion_evidence(
            features, times, module, bundle.task, timesteps=bundle.timesteps, device=where, batch_size=batch_size
        ) if timeline else None  # fmt: skip
    if not np.isfinite(scores).all():
        raise DataError("the scores are not numbers because the features hold NaN or infinity; look at the video")
    return Prediction(bundle.classes, scores, float(times[-1, 1]), evidence)


def check_backbone(bundle: Bundle, backbone: Backbone) -> None:
    """Refuse a backbone with other weights than the one of a checkpoint.

    Raises
    ------
    WeightsError
        Names both.
    CheckpointError
        If no backbone here makes the features of the checkpoint.
    """
    check_from_videos(bundle)
    wanted = bundle.backbone
    if (backbone.name, backbone.endpoint) != (wanted.backbone, wanted.endpoint):
        raise WeightsError(
            f"the checkpoint was trained on features of {wanted.backbone}, {wanted.endpoint}, got {backbone.name}, "
            f"{backbone.endpoint}; load the backbone of the training"
        )
    if backbone.weights_digest != wanted.weights_digest:
        raise WeightsError(
            f"the checkpoint was trained on features of the {wanted.backbone} weights {wanted.weights!r} "
            f"({wanted.weights_digest}), got {backbone.weights_name!r} ({backbone.weights_digest}); give --weights "
            "those of the training"
        )


def check_from_videos(bundle: Bundle) -> None:
    """Refuse a checkpoint whose features cannot be made of a video.

    Raises
    ------
    CheckpointError
        If they were imported or made up.
    """
    if not bundle.backbone.from_videos:
        raise CheckpointError(
            "predictions from a video file need features that are made here, the checkpoint was trained on others "
            f"({bundle.backbone.weights_digest}); import the new videos' features and use nastc evaluate, or "
            "nni_nastc.predict.predict_features"
        )


def _percent(probability: float) -> str:
    """Write a probability so that only a certain one reads as 0 or 100 %."""
    if 0 < probability < 0.0005:
        return "< 0.1 %"
    return "> 99.9 %" if 0.9995 <= probability < 1 else f"{100 * probability:.1f} %"


def _mean_scores(
    features: np.ndarray, bundle: Bundle, module: nn.Module, draws: int, batch_size: int, device: torch.device
) -> np.ndarray:
    """Return the probabilities (K,), averaged over the draws."""
    rng = np.random.default_rng(SEED)
    windows = (
        [uniform_windows(len(features), bundle.timesteps)]
        if draws == 1
        else [random_windows(len(features), bundle.timesteps, rng) for _ in range(draws)]
    )
    rows = []
    for start in range(0, draws, batch_size):
        batch = torch.from_numpy(features[np.stack(windows[start : start + batch_size])])  # (B, T, C, H, W)
        logits = module(network_input(batch.transpose(1, 2), device)).float()
        rows.append(probabilities(bundle.task, logits).double().cpu().numpy())
    return np.concatenate(rows).mean(axis=0)
