"""Annotations in JSON: two formats, recognised by their keys.

The generic format is made for one's own videos. A video has its labels, or its segments (then its labels are the
classes of the segments), or both::

    {
      "classes": ["make tea", "make coffee"],        names, in the order of the network's outputs
      "task": "single-label",                        or "multi-label"
      "parts": ["pour", "stir"],                     optional: what segments are labelled with instead of classes
      "source": "recorded in May",                   optional: free text
      "videos": {
        "P01_kitchen": {                             file name of the video without folder and suffix
          "subset": "train",                         or "test"
          "labels": ["make tea"],                    classes of the whole video; exactly one if single-label
          "segments": [["pour", 0.0, 4.5], ...],     class (or part), start and end in seconds
          "duration_s": 31.2                         optional: no segment may end after it
        }, ...
      }
    }

With "parts" every video needs "labels", since its segments do not tell them; without, labels that are given must hold
the classes of the segments. Anything else in the file is an error.

The format of composed videos has activities made of unit-actions; segments are frames, 1-based and inclusive::

    {"fps": 15.0, "activities": [...], "unit_actions": [...],
     "videos": {ID: {"subset": "train"|"test", "activity": str, "n_frames": int,
                     "segments": [[unit_action, first, last], ...]}}}

Its target "activities" (the default) is single-label, with the unit-actions as parts; "unit-actions" is multi-label.
As in the official Breakfast files that it follows, segments without length or outside the video are no errors.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from nni_nastc.data.json_fields import (
    check_keys,
    is_known,
    is_number,
    is_whole,
    list_of,
    names_of,
    read_unique,
    shown,
    subset_of,
)
from nni_nastc.data.records import TARGETS, TASKS, Annotations, Notice, Problems, Segment, VideoRecord, clip_segment
from nni_nastc.errors import AnnotationError


def load_json(path: Path, target: str | None = None) -> Annotations:
    """Read an annotation file, and check all of it.

    Parameters
    ----------
    path : Path
        JSON in one of the two formats of this module.
    target : str, optional
        "activities" or "unit-actions", for composed videos only; None means "activities" there.

    Returns
    -------
    Annotations
        Classes, task and records.

    Raises
    ------
    AnnotationError
        With all problems of the file together.
    """
    problems = Problems(path)
    content = read_unique(path, problems)
    if not isinstance(content, dict):
        raise AnnotationError(f"{path} must hold a JSON object with classes and videos, got {shown(content)}")
    composed = not {"activities", "unit_actions"}.isdisjoint(content)
    annotations = _composed(content, target or TARGETS[0], problems) if composed else _generic(content, problems)
    problems.raise_any()
    return annotations


def _each_video(
    content: dict[str, Any], problems: Problems, parse: Callable[[str, dict[str, Any]], VideoRecord]
) -> tuple[VideoRecord, ...]:
    """Parse the entries of "videos"."""
    videos = content.get("videos", {})
    if not isinstance(videos, dict) or ("videos" in content and not videos):
        problems.add(f"videos must be an object with at least one video, got {shown(videos)}")
        return ()
    records = []
    for name, video in videos.items():
        if not name or "/" in name or "\\" in name:
            problems.add(f"a video is named by its file without folder and suffix, got {shown(name)}")
        if isinstance(video, dict):
            records.append(parse(name, video))
        else:
            problems.add(f'video "{name}" must be an object, got {shown(video)}')
    return tuple(records)


def _generic(content: dict[str, Any], problems: Problems) -> Annotations:
    """Parse the generic format."""
    check_keys("the file", content, ("classes", "task", "videos"), problems, ("parts", "source"))
    classes, parts = names_of(content, "classes", problems), names_of(content, "parts", problems)
    for name in set(classes).intersection(parts):
        problems.add(f'parts must not be classes, got "{name}" in both')
    task = content.get("task")
    if "task" in content and task not in TASKS:
        problems.add(f"task must be one of {', '.join(TASKS)}, got {shown(task)}")
    if task == "single-label" and len(classes) == 1:
        problems.add("single-label needs at least 2 classes, got 1")

    def parse(name: str, video: dict[str, Any]) -> VideoRecord:
        record = _generic_record(name, video, classes, parts, problems)
        if task == "single-label" and len(record.labels) != 1:
            problems.add(f'video "{name}": single-label needs exactly 1 class, got {shown(list(record.labels))}')
        return record

    records = _each_video(content, problems, parse)
    return Annotations(classes, "single-label" if task == "single-label" else "multi-label", records, parts)


def _generic_record(
    name: str, video: dict[str, Any], classes: tuple[str, ...], parts: tuple[str, ...], problems: Problems
) -> VideoRecord:
    where = f'video "{name}"'
    check_keys(where, video, ("subset",), problems, ("labels", "segments", "duration_s"))
    duration = video.get("duration_s")
    if "duration_s" in video and not (is_number(duration) and duration > 0):
        problems.add(f"{where}: duration_s must be a number above 0, got {shown(duration)}")
        duration = None
    segments = []
    for item in list_of(where, video, "segments", problems):
        segment = _generic_segment(where, item, duration, problems)
        if segment and is_known(where, "part" if parts else "class", segment.label, parts or classes, problems):
            segments.append(segment)
    happening = set() if parts else {segment.label for segment in segments}
    labels = happening
    if "labels" in video:
        given = list_of(where, video, "labels", problems)
        labels = {label for label in given if is_known(where, "class", label, classes, problems)}
        if not happening <= labels:
            problems.add(f"{where}: labels must hold the classes of its segments, {shown(sorted(happening - labels))}")
    elif parts or "segments" not in video:
        problems.add(f"{where}: labels are missing; give the classes of the video")
    ordered = tuple(label for label in classes if label in labels)
    return VideoRecord(name, subset_of(where, video, problems), ordered, tuple(segments), duration)


def _generic_segment(where: str, item: Any, duration: float | None, problems: Problems) -> Segment | None:
    if not (isinstance(item, list) and len(item) == 3 and is_number(item[1]) and is_number(item[2])):
        problems.add(f"{where}: a segment is [name, start, end] with seconds as numbers, got {shown(item)}")
        return None
    label, start, end = item
    if not 0 <= start < end:
        problems.add(f"{where}: a segment must start at 0 or later and end after its start, got {shown(item)}")
    elif duration is not None and end > duration:
        problems.add(f"{where}: a segment must end within duration_s {duration:g}, got {shown(item)}")
    return Segment(label, float(start), float(end))


def _composed(content: dict[str, Any], target: str, problems: Problems) -> Annotations:
    """Parse the format of composed videos."""
    check_keys("the file", content, ("fps", "activities", "unit_actions", "videos"), problems)
    activities = names_of(content, "activities", problems)
    unit_actions = names_of(content, "unit_actions", problems)
    fps = content.get("fps", 1)
    if not (is_number(fps) and fps > 0):
        problems.add(f"fps must be a number above 0, got {shown(fps)}")
        fps = 1
    notices: list[Notice] = []

    def parse(name: str, video: dict[str, Any]) -> VideoRecord:
        where = f'video "{name}"'
        check_keys(where, video, ("subset", "activity", "n_frames", "segments"), problems)
        frames, activity = video.get("n_frames", 1), video.get("activity", "")
        if not (is_whole(frames) and frames > 0):
            problems.add(f"{where}: n_frames must be a whole number above 0, got {shown(frames)}")
            frames = 1
        if "activity" in video:
            is_known(where, "activity", activity, activities, problems)
        seen, segments = set(), []
        for item in list_of(where, video, "segments", problems):
            if not (isinstance(item, list) and len(item) == 3 and is_whole(item[1]) and is_whole(item[2])):
                problems.add(f"{where}: a segment is [unit_action, first, last] in frames, got {shown(item)}")
            elif is_known(where, "unit-action", item[0], unit_actions, problems):
                label, first, last = item
                seen.add(label)
                segment, odd = clip_segment(name, label, (first - 1) / fps, last / fps, frames / fps)
                segments.extend([segment] if segment else [])
                notices.extend(odd)
        labels = [activity] if target == "activities" else [label for label in unit_actions if label in seen]
        return VideoRecord(name, subset_of(where, video, problems), tuple(labels), tuple(segments), frames / fps)

    records = _each_video(content, problems, parse)
    if target == "activities":
        return Annotations(activities, "single-label", records, unit_actions, tuple(notices), target)
    return Annotations(unit_actions, "multi-label", records, (), tuple(notices), target)
