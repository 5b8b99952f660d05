"""Videos as superframes: decoding, exact to the frame, that refuses whatever is damaged.

Decoders are made to show something of every file: they conceal errors and take a cut for the end. Features of such
frames would be wrong without anyone noticing, so here a video is read whole or refused whole. Errors surface in three
ways, and all three are watched: the decoder fails or marks a frame, it gives fewer pictures than there are in the
file, or the file holds fewer pictures than its container promises.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream
from numpy.typing import NDArray

from nni_nastc.errors import ConfigError, VideoError
from nni_nastc.features.containers import check_whole
from nni_nastc.features.frame_folders import FrameFolder, read_frame_folder, require_rate
from nni_nastc.features.slices import zero_run_check
from nni_nastc.features.superframes import SUPERFRAME_LENGTH, num_windows
from nni_nastc.features.video_files import check_exists

# Fail at errors that decoders conceal by default. Stricter flags find hardly more, and refuse sound files of encoders
# that break small rules.
_STRICT = {"err_detect": "explode+crccheck"}
# Playlists may not reach beyond this machine.
_LOCAL = {"protocol_whitelist": "file"}
# Text files have decoders too.
_TEXT_CODECS = ("ansi", "bintext", "idf", "xbin")
# A packet up to this size may be an MPEG-4 picture that was not coded (libavcodec's MAX_NVOP_SIZE).
_MPEG4_EMPTY_BYTES = 19
# AV_FIELD_PROGRESSIVE; 0 is unknown, the orders of fields are above.
_PROGRESSIVE = 1
# Flash says how long it is, but not to the frame (our choice).
_FLV_SLACK_S = 1.0


@dataclass(frozen=True)
class VideoInfo:
    """What can be told of a video without decoding it.

    Parameters
    ----------
    num_frames : int
        F, the frames that decoding gives.
    fps : float
        Frames per second, on average.
    duration_s : float
        From the start of the first frame to the end of the last.
    width, height : int
        Pixels as shown, that is after the rotation that the file asks for.
    size_bytes : int
        Of the file.
    """

    num_frames: int
    fps: float
    duration_s: float
    width: int
    height: int
    size_bytes: int


@dataclass(frozen=True)
class Superframe:
    """Eight consecutive frames.

    Parameters
    ----------
    index : int
        w, its place among the windows of the video.
    frames : ndarray
        (8, crop, crop, 3) uint8, RGB.
    start_s, end_s : float
        Seconds from the start of the video's first frame.
    """

    index: int
    frames: NDArray[np.uint8]
    start_s: float
    end_s: float


def probe(path: Path | str, *, fps: float | None = None) -> VideoInfo:
    """Count a video's frames by its packets, and decode only the first; where packets are not frames, decode all.

    Parameters
    ----------
    path : Path or str
        The video: a file, or a folder of numbered images, of which only the first is read.
    fps : float, optional
        Frames a second of a folder; files tell it themselves.

    Raises
    ------
    VideoError
        If it is missing, is no video, has no frame, or is cut off; of a folder, also if an image is missing, or the
        rate.
    """
    path = Path(path)
    if path.is_dir():
        return _probe_images(read_frame_folder(path), require_rate(path, fps))
    with _open(path) as (container, stream):
        decoder = _Decoder(path, container, stream)
        width, height = decoder.find_size()
        decoder.skip_rest()
        rate, duration_s = decoder.rate(), decoder.duration_s()
        num_frames = decoder.packets
    if decoder.packets_differ_from_frames():
        with _open(path) as (container, stream):
            num_frames = sum(1 for _ in _Decoder(path, container, stream).frames())
    return VideoInfo(num_frames, rate, duration_s, width, height, path.stat().st_size)


def _probe_images(images: FrameFolder, fps: float) -> VideoInfo:
    with _open_images(images, fps) as (container, stream):
        width, height = _Decoder(images.path, container, stream).find_size()
    return VideoInfo(images.num_frames, fps, images.num_frames / fps, width, height, images.size_bytes)


def read_superframes(
    path: Path | str,
    *,
    short_side: int = 256,
    crop: int = 224,
    windows: Iterable[int] | None = None,
    fps: float | None = None,
) -> Iterator[Superframe]:
    """Decode a video, superframe by superframe, in memory that does not grow with its length.

    Frames are turned as the file asks, resized (bilinear) so that the short side has ``short_side`` pixels, and cropped
    at the centre. Pixels count as square. Time stamps may be uneven; where they are missing or run backwards, the
    frame rate goes on from the last one.

    Parameters
    ----------
    path : Path or str
        The video: a file, or a folder of numbered images.
    short_side, crop : int
        Pixels.
    windows : iterable of int, optional
        Superframes that are wanted; all by default. Others are decoded, to see that they are sound, and not converted.
    fps : float, optional
        Frames a second of a folder; files tell it themselves.

    Yields
    ------
    Superframe
        In their order. An error may come after the last one: only a video that was read to its end is sound.

    Raises
    ------
    VideoError
        If the video is missing, is no video, is damaged or cut off anywhere, has fewer than 8 frames, or has no such
        window.
    """
    path = Path(path)
    if not 0 < crop <= short_side:
        raise ConfigError(f"crop must lie between 1 and short_side: given crop {crop} and short_side {short_side}")
    wanted = None if windows is None else frozenset(int(window) for window in windows)
    images = read_frame_folder(path) if path.is_dir() else None
    with _open_images(images, require_rate(path, fps)) if images else _open(path) as (container, stream):
        # Of frames that are decoded side by side the library drops some errors, which then show in their number alone.
        # Of interlaced video that number is not known, because a packet may be a frame or half of one.
        is_interlaced = getattr(stream.codec_context, "field_order", 0) > _PROGRESSIVE
        stream.thread_type = "SLICE" if is_interlaced else "AUTO"
        fitter = _Fitter(short_side, crop)
        frames = 0
        pixels = np.empty(0, np.uint8)
        window_start_s = 0.0
        promised = images.num_frames if images else 0
        for frame, start_s, end_s in _Decoder(path, container, stream, promised).timed_frames():
            window, position = divmod(frames, SUPERFRAME_LENGTH)
            frames += 1
            if wanted is not None and window not in wanted:
                continue
            if position == 0:
                pixels = np.empty((SUPERFRAME_LENGTH, crop, crop, 3), np.uint8)
                window_start_s = start_s
            pixels[position] = fitter.fit(frame)
            if position == SUPERFRAME_LENGTH - 1:
                yield Superframe(window, pixels, window_start_s, end_s)
    _check_length(path, frames, wanted)


class _Decoder:
    """Frames of one video, and the books on what was promised, read and decoded."""

    def __init__(self, path: Path, container: InputContainer, stream: VideoStream, promised: int = 0) -> None:
        self.path = path
        self.container = container
        self.stream = stream
        self.stream.codec_context.options = _STRICT
        self.is_avi = container.format.name == "avi"
        self.has_zero_run = zero_run_check(stream.codec_context.name, stream.codec_context.extradata)
        # Read now: some containers extend it by what they find. Elsewhere it holds key frames only, or nothing.
        self.indexed = promised or len(stream.index_entries)
        self.packets = 0  # pictures, as far as packets tell
        self.received = 0  # packets, also those that the container says are not to be shown
        self.perhaps_empty = 0
        self.interlaced = False
        self.decoded = 0
        self.first_tick: int | None = None
        self.last_tick = 0
        self.last_end_s = 0.0
        self._packets = container.demux()

    def frames(self) -> Iterator[VideoFrame]:
        """Decode to the end, then balance the books."""
        for packet in self._read():
            for frame in packet.decode():
                if frame.is_corrupt:
                    raise VideoError(_damaged(self.path, f"frame {self.decoded} is marked as corrupt"))
                self.interlaced |= frame.interlaced_frame
                self.decoded += 1
                yield frame
        self._check_promise()
        certain = self.packets - self.perhaps_empty
        # Two packets may be the two fields of a frame.
        if self.decoded < (certain // 2 if self.interlaced else certain):
            raise VideoError(_damaged(self.path, f"only {self.decoded} of its {certain} frames can be decoded"))

    def timed_frames(self) -> Iterator[tuple[VideoFrame, float, float]]:
        """Decode to the end, and give the start and the end of each frame in seconds from the first one's start."""
        period = 1 / self.rate()
        waiting: VideoFrame | None = None
        origin = start = 0.0
        for frame in self.frames():
            # AVI has no time stamps but the order of decoding.
            ticks = frame.dts if self.is_avi else frame.pts
            time = None if ticks is None or frame.time_base is None else float(ticks * frame.time_base)
            if waiting is None:
                origin = time or 0.0
            else:
                end = start + period if time is None or time - origin <= start else time - origin
                yield waiting, start, end
                start = end
            waiting = frame
        if waiting is not None:
            last = float(waiting.duration * waiting.time_base) if waiting.duration and waiting.time_base else period
            yield waiting, start, start + last

    def find_size(self) -> tuple[int, int]:
        """Decode the first frame, and return width and height as it is shown."""
        first = next(self.frames(), None)
        if first is None:
            raise VideoError(f"{self.path} holds no frame; give another video")
        sides = (first.width, first.height)
        return sides[::-1] if _Orientation.of(first).transposed else sides

    def skip_rest(self) -> None:
        """Read to the end without decoding."""
        for _ in self._read():
            pass
        self._check_promise()

    def rate(self) -> float:
        """Return frames per second, as the container says or from the first packets; 25 where nothing tells."""
        return float(self.stream.average_rate or self.stream.guessed_rate or 25)

    def duration_s(self) -> float:
        """Return the length in seconds of what has been read."""
        ticks = self.last_tick - (self.first_tick or 0)
        if ticks > 0 and self.stream.time_base:
            return float(ticks * self.stream.time_base)
        return self.packets / self.rate()

    def packets_differ_from_frames(self) -> bool:
        """Tell whether only decoding can count the frames."""
        return self.interlaced or self.perhaps_empty > 0

    def _read(self) -> Iterator[av.Packet]:
        """Read the video's packets, and enter them in the books."""
        for packet in self._packets:
            if packet.pts is not None and packet.time_base:
                self.last_end_s = max(self.last_end_s, float((packet.pts + (packet.duration or 0)) * packet.time_base))
            if packet.stream.index != self.stream.index:
                continue
            if packet.size:
                self._enter(packet)
            yield packet

    def _enter(self, packet: av.Packet) -> None:
        if packet.is_corrupt:
            raise VideoError(_damaged(self.path, f"packet {self.received} is marked as corrupt or cut off"))
        if self.has_zero_run and self.has_zero_run(bytes(packet)):
            raise VideoError(_damaged(self.path, f"packet {self.received} holds zeros where there is picture"))
        self.received += 1
        if packet.is_discard:
            return
        self.packets += 1
        self.perhaps_empty += _may_be_empty(self.stream.codec_context.name, packet)
        if packet.pts is not None:
            self.first_tick = packet.pts if self.first_tick is None else min(self.first_tick, packet.pts)
            self.last_tick = max(self.last_tick, packet.pts + (packet.duration or 0))

    def _check_promise(self) -> None:
        promised = self.indexed
        if self.received > self.indexed:  # the index is no list of all frames
            # AVI counts ticks of its clock, in some of which there is no new frame.
            promised = 0 if self.is_avi and self.last_tick >= self.stream.frames else self.stream.frames
        if self.received < promised:
            raise VideoError(
                f"{self.path} is truncated: it promises {promised} frames, {self.received} are there; "
                "copy or download it again"
            )
        if self.container.format.name == "flv":  # counts nothing
            promised_s = (self.container.duration or 0) / av.time_base
            if self.last_end_s < promised_s - _FLV_SLACK_S:
                raise VideoError(
                    f"{self.path} is truncated: its container promises {promised_s:.1f} s, {self.last_end_s:.1f} s are "
                    "there; copy or download it again"
                )


class _Fitter:
    """Turns, resizes and crops frames."""

    def __init__(self, short_side: int, crop: int) -> None:
        self.short_side = short_side
        self.crop = crop
        self.reformatter = VideoReformatter()  # keeps its tables from frame to frame
        self.orientation: _Orientation | None = None  # of the first frame, and taken for that of all

    def fit(self, frame: VideoFrame) -> NDArray[np.uint8]:
        """Return (crop, crop, 3) RGB, a view."""
        scale = self.short_side / min(frame.width, frame.height)
        width, height = round(frame.width * scale), round(frame.height * scale)
        scaled = self.reformatter.reformat(frame, width, height, "rgb24", interpolation="BILINEAR")
        self.orientation = self.orientation or _Orientation.of(frame)
        image = self.orientation.apply(np.asarray(scaled.to_ndarray(), np.uint8))
        top, left = (image.shape[0] - self.crop) // 2, (image.shape[1] - self.crop) // 2
        return image[top : top + self.crop, left : left + self.crop]


@dataclass(frozen=True)
class _Orientation:
    """How a display matrix turns and mirrors an image, in steps of 90 degrees."""

    transposed: bool = False
    rows_reversed: bool = False
    columns_reversed: bool = False

    @classmethod
    def of(cls, frame: VideoFrame) -> _Orientation:
        """Read it; this keeps the frame in memory until the garbage collector runs, so not of every frame."""
        data = frame.side_data.get("DISPLAYMATRIX")
        if data is None:
            return cls()
        # A pixel (x, y) is shown at (a x + c y, b x + d y).
        a, b, _, c, d = (int(value) for value in np.frombuffer(bytes(data), np.int32)[:5])  # type: ignore[call-overload]
        if abs(b) > abs(a):
            return cls(transposed=True, rows_reversed=b < 0, columns_reversed=c < 0)
        return cls(rows_reversed=d < 0, columns_reversed=a < 0)

    def apply(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return (height, width, 3) as it is shown, a view."""
        if self.transposed:
            image = image.transpose(1, 0, 2)
        return image[:: -1 if self.rows_reversed else 1, :: -1 if self.columns_reversed else 1]


@contextmanager
def _open(path: Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Open a video file; what the library says against it, inside the block too, becomes a :class:`VideoError`."""
    check_exists(path)
    with _told(path):
        check_whole(path)
        url = f"file:{path.absolute()}"
        with av.open(url, container_options=_STRICT | _LOCAL, metadata_errors="replace") as container:
            yield container, _stream_of(path, container)


@contextmanager
def _open_images(images: FrameFolder, fps: float) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Open images as one video, likewise."""
    numbering = {"pattern_type": "sequence", "start_number": str(images.first), "framerate": str(fps)}
    with _told(images.path):
        options = _STRICT | _LOCAL | numbering
        with av.open(images.pattern, format="image2", container_options=options) as container:
            yield container, _stream_of(images.path, container)


def _stream_of(path: Path, container: InputContainer) -> VideoStream:
    stream = container.streams.best("video")
    if not isinstance(stream, VideoStream) or stream.codec_context is None:
        raise VideoError(f"{path} is not a video: it holds no picture that can be decoded; give another file")
    if stream.codec_context.name in _TEXT_CODECS:
        raise VideoError(f"{path} is not a video but text; give another file")
    return stream


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Turn what the library says against a video into a :class:`VideoError`."""
    try:
        yield
    except av.error.InvalidDataError as problem:
        raise VideoError(_damaged(path, "invalid data was found")) from problem
    except (av.error.FFmpegError, OSError) as problem:
        raise VideoError(f"{path} cannot be read as a video ({problem.strerror}); give another file") from problem


def _may_be_empty(codec: str, packet: av.Packet) -> bool:
    """Tell whether a packet perhaps gives no picture of its own, although nothing is wrong with it."""
    if codec == "mpeg4":  # the picture is the one before, or was packed into the packet before
        return packet.size <= _MPEG4_EMPTY_BYTES
    if codec == "vp8":  # a reference that is never shown (RFC 6386, section 9.1)
        return not bytes(packet)[0] >> 4 & 1
    return False


def _check_length(path: Path, frames: int, wanted: frozenset[int] | None) -> None:
    if frames < SUPERFRAME_LENGTH:
        raise VideoError(
            f"{path} is too short: a superframe needs {SUPERFRAME_LENGTH} frames, it has {frames}; leave it out"
        )
    if beyond := sorted(window for window in wanted or () if not 0 <= window < num_windows(frames)):
        raise VideoError(f"{path} has no window {beyond[0]}: its windows are 0 to {num_windows(frames) - 1}")


def _damaged(path: Path, what: str) -> str:
    return f"{path} is damaged or not a video: {what}; copy or download it again"
