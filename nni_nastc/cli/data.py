"""``nastc data check``: look at annotations, and at how they fit a feature store."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nni_nastc.data.check import CheckReport, ClassCount, PartReport

TIMELINES = 4
"""How many videos are drawn unless asked for more or less."""


def add_parser(subparsers: Any) -> None:
    """Add the command."""
    parser = subparsers.add_parser("data", help="check annotations, also against a feature store")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    check = actions.add_parser(
        "check",
        help="show what annotations hold, what is odd about them, and how they fit a store",
        description="Read the official files of a data set, or the generic JSON; show the videos, classes, durations "
        "and problems, and what is missing in a feature store.",
    )
    check.add_argument("path", metavar="PATH", help="folder of the official files as downloaded, or a JSON file")
    check.add_argument(
        "--dataset", default="json", metavar="NAME", help="json (default), charades, multithumos or breakfast"
    )
    check.add_argument("--store", metavar="STORE", help="compare with the videos of this feature store")
    check.add_argument("--json", action="store_true", help="print counts as JSON")
    check.add_argument("--strict", action="store_true", help="the odd segments of official files are errors, too")
    check.add_argument("--timeline", metavar="PNG", help="draw the segments of some videos over time")
    check.add_argument(
        "--videos", type=_at_least_one, default=TIMELINES, metavar="N", help=f"videos to draw (default {TIMELINES})"
    )
    check.set_defaults(run=run_check)


def run_check(arguments: argparse.Namespace) -> int:
    """Check, and print what was found."""
    from nni_nastc.data.check import check_annotations

    stored = None
    if arguments.store:
        from nni_nastc.features.store import FeatureStore

        stored = FeatureStore.open(arguments.store).videos.keys()
    report = check_annotations(arguments.path, arguments.dataset, stored)
    if arguments.strict:
        report.require_no_problems(Path(arguments.path))
    if arguments.timeline:
        _draw(report, arguments.videos, arguments.timeline)
    if arguments.json:
        print(json.dumps(report.to_json(), indent=1, ensure_ascii=False))
    else:
        print("\n".join(_lines(report)))
        if arguments.timeline:
            print(f"wrote {arguments.timeline}")
    return 0


def _draw(report: CheckReport, count: int, path: str) -> None:
    from nni_nastc.data.check import end_s, pick_timelines
    from nni_nastc.plots import AnnotatedVideo, draw_annotated

    videos = []
    for record in pick_timelines(report.annotations.records, count):
        labels = f": {', '.join(record.labels)}" if report.annotations.parts else ""
        segments = [(segment.label, segment.start_s, segment.end_s) for segment in record.segments]
        videos.append(AnnotatedVideo(f"{record.id} ({record.subset}){labels}", end_s(record), segments))
    draw_annotated(videos, path)


def _lines(report: CheckReport) -> list[str]:
    lines = [_part_line(subset, part) for subset, part in report.parts.items()]
    tables = {"activities": report.activities, "unit-actions" if report.activities else "classes": report.classes}
    for what, counts in tables.items():
        if counts:
            lines += ["", f"{len(counts)} {what}, and the videos that show them", *_class_lines(counts)]
    lines.append("")
    lines += [
        f"{count} x {kind}, e.g. {report.examples[kind]}" for kind, count in report.problems.items()
    ] or ["no problems"]
    if report.missing is not None and report.unannotated is not None:
        lines += [_names_line("missing in the store", report.missing)]
        lines += [_names_line("in the store without annotation", report.unannotated)]
    return lines


def _part_line(subset: str, part: PartReport) -> str:
    line = f"{subset:5}  {part.videos:,} videos, {part.segments:,} segments"
    if part.unlabelled:
        line += f", {part.unlabelled} without any class"
    known = part.durations_s[part.durations_s > 0]
    if len(known):
        line += f"; {known.sum() / 3600:.1f} h, a video {known.min():.1f} to {known.max():.1f} s"
        line += f" (median {median(known):.1f} s)"
    return line


def _class_lines(classes: Sequence[ClassCount]) -> list[str]:
    width = max(len(count.name) for count in classes)
    rows = [f"  {count.name:{width}}  {count.train:6}  {count.test:6}" for count in classes]
    return [f"  {'':{width}}  {'train':>6}  {'test':>6}", *rows]


def _names_line(what: str, names: Sequence[str]) -> str:
    return f"{len(names)} {what}" + (f", first: {', '.join(names[:3])}" if names else "")


def _at_least_one(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value
