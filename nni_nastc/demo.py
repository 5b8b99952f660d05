"""The whole chain on data that it makes itself: videos, features, search, training, scores, a prediction.

An activity of the made videos is told only by the order of its parts, so that pooling over time cannot know it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pytorch_lightning.callbacks import Callback

from nni_nastc.bundle import MODEL_FILE, load_bundle
from nni_nastc.config import (
    DataConfig,
    EvaluateConfig,
    SearchConfig,
    StrategyConfig,
    TrainConfig,
    TrainOptimizerConfig,
)
from nni_nastc.data.annotations import Annotations, load_annotations
from nni_nastc.data.synthetic import make_moving_shapes
from nni_nastc.errors import RunFolderError
from nni_nastc.evaluate import evaluate
from nni_nastc.features.backbone import Backbone
from nni_nastc.features.extractor import ExtractionReport, ExtractionSettings, extract
from nni_nastc.files import write_json
from nni_nastc.plots import draw_timeline
from nni_nastc.predict import predict_video
from nni_nastc.search.runner import run_search
from nni_nastc.training import train

SHORT_SIDE, CROP = 128, 112
"""Half of I3D's usual input: a quarter of the time, and shapes of this size are still well seen."""

POOL = 1
"""The maps are averaged: where a shape is does not matter here, and search and training are quicker by far."""

TIMESTEPS = 16
NUM_LAYERS = 3
SEARCH_EPOCHS = 12
ALPHA_LEARNING_RATE = 0.01
"""DARTS' 3e-4 is for thousands of steps; here there are 60."""

TRAIN_EPOCHS = 40

Progress = Callable[[str], Sequence[Callback]]


@dataclass
class DemoReport:
    """What the demo did.

    Attributes
    ----------
    steps : list of (name, seconds)
        In order.
    accuracy : dict
        On the test part: of the searched network, of mean pooling, of chance; in [0, 1].
    weights : str
        The backbone's weights.
    prediction : dict
        Video, its activity, and the predicted one.
    """

    steps: list[tuple[str, float]] = field(default_factory=list)
    accuracy: dict[str, float] = field(default_factory=dict)
    weights: str = ""
    prediction: dict[str, Any] = field(default_factory=dict)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Take the time of a block."""
        start = time.perf_counter()
        yield
        self.steps.append((name, time.perf_counter() - start))


def run_demo(out: Path, backbone: Backbone, *, progress: Progress, extraction_progress: Any = None) -> DemoReport:
    """Run the demo in a folder; what is there already of the same demo is not done again.

    Parameters
    ----------
    out : Path
        Gets ``videos``, ``annotations.json``, ``store``, ``search``, ``nas_tc``, ``pool``, and ``demo.json``.
    backbone : Backbone
        From :func:`nni_nastc.load_i3d`.
    progress : callable
        Title -> callbacks of Lightning that show how a training goes.
    extraction_progress : callable, optional
        As of :func:`nni_nastc.features.extractor.extract`.

    Returns
    -------
    DemoReport
        Times and scores, also written to ``demo.json``.

    Raises
    ------
    RunFolderError
        If a video could not be read back, or the folder holds other files.
    """
    report = DemoReport(weights=backbone.weights_name)
    with report.step("make videos"):
        make_moving_shapes(out)
    with report.step("extract I3D features"):
        settings = ExtractionSettings(short_side=SHORT_SIDE, crop=CROP, pool=POOL)
        done = extract([out / "videos"], out / "store", backbone, settings, progress=extraction_progress)
    _require_all(done, out)
    data = DataConfig(store=out / "store", annotations=out / "annotations.json", timesteps=TIMESTEPS, batch_size=8)
    with report.step("search a cell"):
        run_search(
            SearchConfig(
                output=out / "search",
                data=data,
                num_layers=NUM_LAYERS,
                strategy=StrategyConfig(arc_learning_rate=ALPHA_LEARNING_RATE),
                epochs=SEARCH_EPOCHS,
            ),
            progress("searching"),
        )
    for name, genotype in (("nas_tc", str(out / "search")), ("pool", "pool")):
        with report.step(f"train {name}"):
            train(_training(out / name, genotype, data), progress(f"training {name}"))
        with report.step(f"evaluate {name}"):
            scores = evaluate(
                EvaluateConfig(
                    checkpoint=out / name / MODEL_FILE,
                    output=out / name / "evaluation",
                    store=data.store,
                    annotations=data.annotations,
                )
            )
        report.accuracy[name] = scores["accuracy"]
    annotations = load_annotations(data.annotations)
    report.accuracy["chance"] = 1 / len(annotations.classes)
    with report.step("predict a video"):
        report.prediction = _predict(out, backbone, annotations)
    write_json(out / "demo.json", asdict(report))
    return report


def _training(output: Path, genotype: str, data: DataConfig) -> TrainConfig:
    """Return the final training of a network: all of the training part, the last epoch kept."""
    return TrainConfig(
        output=output,
        genotype=genotype,
        data=data,
        num_layers=NUM_LAYERS,
        final=True,
        epochs=TRAIN_EPOCHS,
        optimizer=TrainOptimizerConfig(schedule="cosine"),
    )


def _require_all(report: ExtractionReport, out: Path) -> None:
    """Refuse to go on without videos that the demo has made itself."""
    if report.failed:
        name, reason = next(iter(report.failed.items()))
        raise RunFolderError(f"the demo's own video {name} is damaged ({reason}); remove {out} and run again")


def _predict(out: Path, backbone: Backbone, annotations: Annotations) -> dict[str, Any]:
    """Predict the first test video from its file, and draw what speaks for each class over time."""
    record = next(record for record in annotations.records if record.subset == "test")
    bundle, module = load_bundle(out / "nas_tc" / MODEL_FILE)
    video = out / "videos" / f"{record.id}.mp4"
    prediction = predict_video(video, bundle, module, backbone, timeline=True)
    assert prediction.evidence is not None
    evidence, order = prediction.evidence, prediction.top(len(prediction.class_names))
    draw_timeline(prediction.captions(order), evidence.values[order], evidence.times, out / "timeline.png", video.name)
    best = order[0]
    return {
        "video": video.name,
        "activity": record.labels[0],
        "predicted": prediction.class_names[best],
        "score": float(prediction.scores[best]),
    }
