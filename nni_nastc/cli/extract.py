"""``nastc extract``: features of videos into a feature store."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

from nni_nastc.arguments import count
from nni_nastc.features.backbone_names import BACKBONE_ENDPOINTS, I3D_NAME, PRECISIONS

if TYPE_CHECKING:
    from nni_nastc.features.backbone import Backbone
    from nni_nastc.features.extraction_plan import ExtractionPlan
    from nni_nastc.features.extractor import ExtractionProgress, ExtractionReport, ExtractionSettings

EXIT_SOME_FAILED = 2
RANDOM = "random"


def add_parser(subparsers: Any) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "extract",
        help="extract features of videos",
        description="Decode videos, run I3D or ResNet-152 on their superframes (8 frames each), and store the "
        "features. A run that was stopped goes on when run again. A video that cannot be read is listed at the end, "
        "and the exit code is 2.",
    )
    parser.add_argument(
        "videos",
        nargs="+",
        type=Path,
        metavar="VIDEO",
        help="video files, folders of numbered images (img_00001.jpg), or folders of either",
    )
    parser.add_argument("--out", required=True, type=Path, metavar="STORE", help="folder of the feature store")
    parser.add_argument(
        "--backbone", default=I3D_NAME, choices=BACKBONE_ENDPOINTS, help="the network (default: %(default)s)"
    )
    parser.add_argument(
        "--weights",
        default="kinetics400",
        help="its weights: kinetics400 (of I3D, fetched on first use, 47 MB), random, or a file; for resnet152 "
        "torchvision's resnet152-*.pth (default: %(default)s)",
    )
    parser.add_argument(
        "--endpoint",
        metavar="MAP",
        help="the map that is stored; of resnet152 that of a superframe's middle frame, layer4_middle (default), or "
        "the mean of all its frames, layer4_mean",
    )
    _add_naming(parser)
    _add_sizes(parser)
    _add_processes(parser)
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="count superframes and disk, estimate the time of one process from 10 s; write nothing",
    )
    parser.set_defaults(run=run, resumes=True)


def _add_naming(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--annotations",
        metavar="PATH",
        help="only the annotated videos, under the names of the annotations; VIDEO is the folder that has them as the "
        "official download does (default: all videos, each under its file's name)",
    )
    parser.add_argument(
        "--dataset", default="json", metavar="NAME", help="whose: json (default), charades, multithumos or breakfast"
    )


def _add_sizes(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--windows",
        type=_windows,
        default="all",
        metavar="T",
        help="only T superframes of each video, evenly spaced (default: all)",
    )
    parser.add_argument("--pool", type=int, metavar="N", help="average the 7 x 7 maps to N x N (default: keep them)")
    parser.add_argument(
        "--short-side", type=int, default=256, metavar="PIXELS", help="of the resized frames (default: %(default)s)"
    )
    parser.add_argument(
        "--crop", type=int, default=224, metavar="PIXELS", help="side of the centre crop (default: %(default)s)"
    )
    parser.add_argument(
        "--fps", type=float, metavar="RATE", help="images a second in folders of them: 24 for those of Charades"
    )


def _add_processes(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--batch-size", type=int, default=8, metavar="B", help="superframes at a time (default: %(default)s)"
    )
    parser.add_argument(
        "--precision",
        default="float32",
        choices=PRECISIONS,
        help="that the network computes with; bfloat16 suits GPUs, and how far it is from float32 is said at the end "
        "(default: %(default)s)",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ... (default: %(default)s)")
    parser.add_argument(
        "--devices",
        type=_devices,
        default=1,
        metavar="N",
        help="processes on this machine, each with a GPU if there are some; auto: one for each GPU (default: 1)",
    )
    parser.add_argument(
        "--num-nodes",
        type=count,
        default=1,
        metavar="M",
        help="machines, each with as many devices; torchrun or SLURM starts them (default: 1)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Extract, or plan to; say what came of it, and which videos failed."""
    from nni_nastc.distributed import check_processes, only_main_warns

    many = (arguments.devices, arguments.num_nodes) != (1, 1) and not arguments.dry_run
    if not many:
        check_processes(1, 1, "--devices", "--num-nodes")
    only_main_warns()
    videos = _find(arguments)  # before the weights are fetched

    from nni_nastc.features.extraction_settings import ExtractionSettings

    settings = ExtractionSettings(
        short_side=arguments.short_side,
        crop=arguments.crop,
        windows=arguments.windows,
        pool=arguments.pool,
        fps=arguments.fps,
        batch_size=arguments.batch_size,
        precision=arguments.precision,
        device=arguments.device,
    )
    backbone = load_backbone(arguments.weights, arguments.backbone, arguments.endpoint)
    if arguments.dry_run:
        return _plan(arguments.out, videos, backbone, settings)
    if many:
        return _extract_on(arguments, videos, backbone, settings)

    from nni_nastc.features.extractor import extract

    with ExtractionBar() as bar:
        report = extract(videos, arguments.out, backbone, settings, progress=bar)
    return _show_report(report, arguments.out, len(videos))


def _find(arguments: argparse.Namespace) -> dict[str, Path]:
    """Return the videos under the names that they get in the store."""
    if arguments.annotations is None:
        from nni_nastc.features.video_files import find_videos

        return find_videos(arguments.videos)
    from nni_nastc.data.annotated_videos import find_annotated
    from nni_nastc.data.annotations import load_annotations

    annotations = load_annotations(arguments.annotations, dataset=arguments.dataset)
    return find_annotated(annotations.records, arguments.videos)


def _plan(out: Path, videos: dict[str, Path], backbone: Backbone, settings: ExtractionSettings) -> int:
    from nni_nastc.features.extractor import plan_extraction

    with ExtractionBar() as bar:
        plan = plan_extraction(videos, out, backbone, settings, progress=bar)
    _show_plan(plan)
    exit_code = _show_failed(plan.failed, len(videos))
    plan.check_disk(out)
    return exit_code


def _extract_on(
    arguments: argparse.Namespace, videos: dict[str, Path], backbone: Backbone, settings: ExtractionSettings
) -> int:
    """Extract with several processes, of which the first speaks; all end with the same exit code."""
    from nni_nastc.distributed import gather, is_main
    from nni_nastc.features.processes import extract_on
    from nni_nastc.session import training_session

    with training_session(), ExtractionBar() as bar:
        report = extract_on(
            videos,
            arguments.out,
            backbone,
            settings,
            devices=arguments.devices,
            num_nodes=arguments.num_nodes,
            progress=bar,
        )
        exit_code = _show_report(report, arguments.out, len(videos)) if is_main() else _exit_code(report.failed)
        sys.stdout.flush()
        # torchrun ends all processes when one has failed: not before all is said, and each with its own exit code.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        gather(None)
    return exit_code


def load_backbone(weights: str, name: str = I3D_NAME, endpoint: str | None = None) -> Backbone:
    """Load a backbone by what a user names, and say it loudly if its weights are random."""
    from nni_nastc.distributed import is_main
    from nni_nastc.features import backbones

    backbone = backbones.load_backbone(name, None if weights == RANDOM else weights, endpoint)
    if weights == RANDOM and is_main():
        print(
            f"WARNING: the weights of {backbone.title} are RANDOM. Its features show that everything runs, and tell "
            "little of the videos; use trained ones (--weights) for results.",
            file=sys.stderr,
        )
    return backbone


class ExtractionBar:
    """Draws the progress of an extraction: videos, superframes per second, time left.

    A context manager, and the callback of :func:`nni_nastc.features.extractor.extract`. It appears with the first call
    and is finished with the last video.
    """

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            TextColumn("{task.fields[videos]} videos"),
            TextColumn("{task.fields[speed]}"),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[video]}", markup=False),
            console=Console(stderr=True),
        )
        self._stage = ""

    def __enter__(self) -> ExtractionBar:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bar.stop()

    def __call__(self, progress: ExtractionProgress) -> None:
        """Draw."""
        if progress.stage != self._stage:
            self._stage = progress.stage
            for task in self._bar.task_ids:
                self._bar.remove_task(task)
            title = "counting frames" if progress.stage == "looking" else "extracting"
            if progress.processes > 1:
                title += f" (process 1 of {progress.processes})"
            self._bar.add_task(title, videos="", speed="", video="")
            self._bar.start()
        task_id = self._bar.task_ids[0]
        by_superframes = progress.stage == "extracting"
        self._bar.update(
            task_id,
            total=progress.superframes_total if by_superframes else progress.videos_total,
            completed=progress.superframes_done if by_superframes else progress.videos_done,
            videos=f"{progress.videos_done}/{progress.videos_total}",
            video=progress.video,
        )
        elapsed = self._bar.tasks[0].elapsed
        if elapsed and progress.superframes_extracted:
            self._bar.update(task_id, speed=f"{progress.superframes_extracted / elapsed:.1f} superframes/s")
        if by_superframes and progress.videos_done == progress.videos_total:
            self._bar.stop()


def _show_plan(plan: ExtractionPlan) -> None:
    print(f"videos:      {len(plan.pending)} to extract, {len(plan.skipped)} already in the store")
    if plan.replaced:
        print(f"changed:     {', '.join(plan.replaced)} (the store has them from another file)")
    print(f"superframes: {plan.superframes}")
    print(f"disk:        {plan.bytes_needed / 1e9:.3g} GB needed, {plan.bytes_free / 1e9:.3g} GB free")
    print(f"time:        about {_duration(plan.seconds or 0)}")


def _show_report(report: ExtractionReport, out: Path, videos: int) -> int:
    """Say what was done, list the videos that failed, and return the exit code."""
    print(
        f"videos extracted: {len(report.done)} ({report.superframes} superframes in {_duration(report.seconds)}), "
        f"already there: {len(report.skipped)}; the store is {out}"
    )
    if report.deviation is not None:
        print(f"computed in bfloat16: the first batch differs from float32's by {100 * report.deviation:.2g} % (norms)")
    if report.replaced:
        print(f"extracted again, because the file had changed: {', '.join(report.replaced)}")
    return _show_failed(report.failed, videos)


def _show_failed(failed: Mapping[str, str], videos: int) -> int:
    """List the videos that failed, and return the exit code."""
    if failed:
        print(f"nastc extract: cannot use {len(failed)} of {videos} videos:", file=sys.stderr)
    for reason in failed.values():
        print(f"  {reason}", file=sys.stderr)
    return _exit_code(failed)


def _exit_code(failed: Mapping[str, str]) -> int:
    return EXIT_SOME_FAILED if failed else 0


def _devices(text: str) -> int | str:
    """Read "auto" or a number from 1 up."""
    return text if text == "auto" else count(text)


def _windows(text: str) -> Literal["all"] | int:
    """Read "all" or a number from 1 up."""
    if text == "all":
        return "all"
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be all, or a whole number from 1 up: given {text!r}")
    return int(text)


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{seconds:.0f} s" if seconds < 100 else f"{minutes} min" if minutes < 100 else f"{seconds / 3600:.1f} h"
