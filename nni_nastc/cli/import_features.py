"""``nastc import``: features of other extractors into a feature store."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

EXIT_SOME_FAILED = 2


def add_parser(subparsers: Any) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "import",
        help="import features that another program extracted",
        description="Put arrays of features (.npy, .npz, .h5, .safetensors) into a feature store. A run that was "
        "stopped goes on when run again. A file that cannot be used is listed at the end, and the exit code is 2.",
    )
    parser.add_argument(
        "source",
        type=Path,
        metavar="FOLDER_OR_FILE",
        help="folder of files, each named after its video; or one file with an array for each video",
    )
    parser.add_argument("--out", required=True, type=Path, metavar="STORE", help="folder of the feature store")
    parser.add_argument(
        "--layout",
        required=True,
        metavar="AXES",
        help="axes of the arrays in their order: T windows, C channels, H and W if there are any, 1 for an axis of "
        "size 1; TC (video_features), CT (MS-TCN), THWC (Timeception), TCHW, CTHW, 1CT, ...",
    )
    parser.add_argument("--name", help="what the features are (default: the name of FOLDER_OR_FILE)")
    parser.add_argument("--key", help="name of the arrays, where a file or each of its groups has several")
    parser.add_argument(
        "--suffix", default="", help="only files whose name ends so, and cut it off to get the video's name: _rgb"
    )
    parser.add_argument("--fps", type=float, help="frames a second of the videos (default: time in windows)")
    parser.add_argument("--stride", type=int, metavar="FRAMES", help="frames from one window to the next")
    parser.set_defaults(run=run, resumes=True)


def run(arguments: argparse.Namespace) -> int:
    """Import, say what came of it, and which files failed."""
    from rich.console import Console
    from rich.progress import Progress

    from nni_nastc.features.importing import import_features

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("importing", total=None)
        report = import_features(
            arguments.source,
            arguments.out,
            layout=arguments.layout,
            name=arguments.name,
            key=arguments.key,
            suffix=arguments.suffix,
            fps=arguments.fps,
            stride=arguments.stride,
            progress=lambda video, done, total: bar.update(task, completed=done, total=total),
        )
    print(
        f"videos imported: {len(report.done)} ({report.windows} windows), already there: {len(report.skipped)}; "
        f"the store is {arguments.out}"
    )
    if not report.failed:
        return 0
    print(f"nastc import: cannot use {len(report.failed)} files or videos:", file=sys.stderr)
    for reason in report.failed.values():
        print(f"  {reason}", file=sys.stderr)
    return EXIT_SOME_FAILED
