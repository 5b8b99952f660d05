"""How far an extraction is, for whoever wants to show it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

from nni_nastc.features.extraction_plan import PlannedVideo


@dataclass(frozen=True)
class ExtractionProgress:
    """How far an extraction is; of several processes each tells of its own share.

    Parameters
    ----------
    stage : str
        "looking" while videos are counted, then "extracting".
    video : str
        File name of the video at hand, or of the last one.
    videos_done, videos_total : int
        Of this stage; failed videos count as done.
    superframes_done, superframes_total : int
        Of the videos to be extracted; those that a failed video would have had count as done.
    superframes_extracted : int
        That the network has really seen.
    processes : int
        That share the videos.
    """

    stage: Literal["looking", "extracting"]
    video: str
    videos_done: int
    videos_total: int
    superframes_done: int = 0
    superframes_total: int = 0
    superframes_extracted: int = 0
    processes: int = 1


ProgressCallback = Callable[[ExtractionProgress], None]


class Tracker:
    """Counts, and tells the caller.

    Parameters
    ----------
    callback : callable, optional
        Is told after every change.
    processes : int
        That share the videos.
    """

    def __init__(self, callback: ProgressCallback | None, processes: int = 1) -> None:
        self.callback = callback
        self.now = ExtractionProgress("looking", "", 0, 0, processes=processes)
        self._due = 0  # superframes that are done when the video at hand is

    def looked_at(self, video: str, done: int, total: int) -> None:
        """Count a video that was looked at."""
        self._tell(video=video, videos_done=done, videos_total=total)

    def start(self, videos: int, superframes: int) -> None:
        """Begin to extract."""
        self._tell(stage="extracting", video="", videos_done=0, videos_total=videos, superframes_total=superframes)

    def extracted(self, video: str, superframes: int) -> None:
        """Count a batch."""
        self._tell(
            video=video,
            superframes_done=self.now.superframes_done + superframes,
            superframes_extracted=self.now.superframes_extracted + superframes,
        )

    def finished(self, video: PlannedVideo) -> None:
        """Count a video, whether it was extracted or failed."""
        self._due += video.windows
        self._tell(video=video.path.name, videos_done=self.now.videos_done + 1, superframes_done=self._due)

    def _tell(self, **changes: Any) -> None:
        self.now = replace(self.now, **changes)
        if self.callback is not None:
            self.callback(self.now)
