"""``nastc predict``: the classes of videos, straight from their files, and when they show."""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nni_nastc.errors import DataError, NastcError, VideoError, WeightsError
from nni_nastc.features.video_files import find_videos, video_name
from nni_nastc.files import make_folder

if TYPE_CHECKING:
    from nni_nastc.bundle import Bundle
    from nni_nastc.evaluation.occlusion import Evidence
    from nni_nastc.features.backbone import Backbone
    from nni_nastc.predict import Prediction

TOP = 5
MOST = 1000
ROUNDING = 0.001
"""Log-odds that are as good as none: a network's arithmetic is in single precision."""
EXIT_SOME_FAILED = 2


def add_parser(subparsers: Any) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "predict",
        help="classify video files",
        description="Decode videos, extract their features, classify them, and print the most probable classes.",
    )
    parser.add_argument(
        "videos", nargs="+", metavar="VIDEO", help="video files, folders of numbered images, or folders of either"
    )
    parser.add_argument("--model", required=True, metavar="CHECKPOINT", help="a folder of nastc train, or its file")
    parser.add_argument("--top", type=_count, metavar="N", help=f"how many classes (printed {TOP}, with --json all)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.add_argument(
        "--timeline",
        nargs="?",
        const=True,
        metavar="PNG",
        help="also find when the video speaks for each class, in log-odds that a stretch adds: "
        "draws VIDEO.timeline.png (or PNG, for one video)",
    )
    parser.add_argument("--out", metavar="FOLDER", help="write VIDEO.prediction.json, and the timeline, to this folder")
    parser.add_argument("--draws", type=_count, help="random draws to average; the checkpoint's (10) by default")
    parser.add_argument(
        "--weights", help="the backbone's weights: kinetics400, random or a file; those that the checkpoint names"
    )
    parser.add_argument("--fps", type=float, metavar="RATE", help="images a second in folders of them")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ... (default: %(default)s)")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Predict one video after the other; those that cannot be read are listed at the end."""
    from nni_nastc.bundle import load_bundle
    from nni_nastc.cli.extract import ExtractionBar
    from nni_nastc.predict import check_backbone, check_from_videos, predict_video

    videos = _videos(arguments)
    bundle, module = load_bundle(arguments.model)
    check_from_videos(bundle)
    _check_outputs(arguments, videos)
    backbone = _backbone(arguments.weights, bundle)
    check_backbone(bundle, backbone)
    predictions: list[dict[str, Any]] = []
    failed: list[dict[str, str]] = []
    for video in videos:
        try:
            with ExtractionBar() if sys.stderr.isatty() else nullcontext() as bar:
                prediction = predict_video(
                    video,
                    bundle,
                    module,
                    backbone,
                    draws=arguments.draws,
                    timeline=arguments.timeline is not None,
                    fps=arguments.fps,
                    device=arguments.device,
                    progress=bar,
                )
        except (VideoError, DataError) as problem:
            failed.append({"video": str(video), "reason": str(problem)})
            continue
        predictions.append({"video": str(video), **prediction.to_dict(arguments.top)})
        written = _write(arguments, video, prediction, predictions[-1])
        if not arguments.json:
            _show(video, prediction, arguments.top or TOP, written)
    if arguments.json:
        result = {"model": str(arguments.model), "task": bundle.task, "predictions": predictions, "failed": failed}
        print(json.dumps(result, indent=1, ensure_ascii=False))
    return _report_failed(failed, len(videos))


def _count(text: str) -> int:
    """Read a number from 1 up."""
    if not text.isdecimal() or not 1 <= int(text) <= MOST:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1 to {MOST}, got {text!r}")
    return int(text)


def _videos(arguments: argparse.Namespace) -> list[Path]:
    """Return the videos, those in folders included."""
    given = [Path(video) for video in arguments.videos]
    return [path for video in given for path in (find_videos([video]).values() if video.is_dir() else [video])]


def _check_outputs(arguments: argparse.Namespace, videos: list[Path]) -> None:
    """Refuse what could not be written, before any work; make the output folder."""
    from nni_nastc.plots.style import PICTURE_SUFFIXES

    picture = arguments.timeline if isinstance(arguments.timeline, str) else None
    if picture and Path(picture).suffix.lower() not in PICTURE_SUFFIXES:
        raise NastcError(
            f"--timeline takes a {', '.join(PICTURE_SUFFIXES)} file or nothing, got {picture!r}; "
            "give the videos before the options"
        )
    if picture and len(videos) > 1:
        raise NastcError(f"--timeline FILE is for one video, got {len(videos)}; give --out FOLDER instead")
    if arguments.timeline is None and arguments.out is None:
        return
    repeated = [name for name, count in Counter(map(video_name, videos)).items() if count > 1]
    if repeated:
        raise NastcError(f"two videos are named {repeated[0]!r}, their files would have one name; run them one by one")
    make_folder(Path(picture).parent if picture else Path(arguments.out or "."))


def _backbone(weights: str | None, bundle: Bundle) -> Backbone:
    """Load the weights that are asked for, or else those that the checkpoint names."""
    from nni_nastc.cli.extract import load_backbone
    from nni_nastc.features.weights import KINETICS400, RANDOM

    name = weights or bundle.backbone.weights
    if weights is None and name not in (KINETICS400, RANDOM):
        raise WeightsError(
            f"the checkpoint was trained with {bundle.backbone.backbone} weights from a file, {name!r} "
            f"({bundle.backbone.weights_digest}); give it with --weights FILE"
        )
    return load_backbone(name, bundle.backbone.backbone, bundle.backbone.endpoint)


def _write(
    arguments: argparse.Namespace, video: Path, prediction: Prediction, value: dict[str, Any]
) -> list[Path]:
    """Write the files that were asked for, and return them."""
    if arguments.timeline is None and arguments.out is None:
        return []
    from nni_nastc.files import write_json
    from nni_nastc.plots import draw_timeline

    folder = Path(arguments.out or ".")
    if isinstance(arguments.timeline, str):
        picture = Path(arguments.timeline)
        text = picture.with_suffix(".json")
    else:
        picture, text = folder / f"{video_name(video)}.timeline.png", folder / f"{video_name(video)}.prediction.json"
    write_json(text, value)
    if prediction.evidence is None:
        return [text]
    top = prediction.top(arguments.top or TOP)
    evidence = prediction.evidence
    draw_timeline(prediction.captions(top), evidence.values[top], evidence.times, picture, video.name)
    return [text, picture]


def _show(video: Path, prediction: Prediction, top: int, written: list[Path]) -> None:
    """Print a table of the most probable classes."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD)
    table.add_column("class")
    table.add_column("probability", justify="right")
    if prediction.evidence is not None:
        table.add_column("strongest at", justify="right")
    for number in prediction.top(top):
        row: list[Text | str] = [Text(prediction.class_names[number]), f"{prediction.scores[number]:.3f}"]
        if prediction.evidence is not None:
            row.append(_strongest(prediction.evidence, number))
        table.add_row(*row)
    console = Console(highlight=False)
    console.print(Text(f"{video}  ({prediction.duration_s:.1f} s)"), soft_wrap=True)
    console.print(table)
    for path in written:
        console.print(Text(f"wrote {path}"), soft_wrap=True)


def _strongest(evidence: Evidence, number: int) -> str:
    """Write when the video speaks most for a class, or that it never does."""
    values = evidence.values[number]
    start, end = evidence.times[values.argmax()]
    return f"{start:.1f} - {end:.1f} s" if values.max() > ROUNDING else "never"


def _report_failed(failed: list[dict[str, str]], total: int) -> int:
    """List the videos that failed, and return the exit code."""
    if not failed:
        return 0
    print(f"nastc predict: cannot use {len(failed)} of {total} videos:", file=sys.stderr)
    for entry in failed:
        named = entry["video"] in entry["reason"]
        print(f"  {entry['reason']}" if named else f"  {entry['video']}: {entry['reason']}", file=sys.stderr)
    return EXIT_SOME_FAILED
