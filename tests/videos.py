"""Small videos for tests, whose frames carry their number, and a backbone that shows which frames it was given."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from nni_nastc.features.backbone import Backbone

GRID = 4
# For a process of its own: its peak in kB. The one of getrusage starts at that of the process it was forked from.
PRINT_PEAK_MEMORY = """
print(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))
"""
MILLISECOND = Fraction(1, 1000)


def numbered_frame(number: int, width: int = 96, height: int = 64) -> np.ndarray:
    """Return (height, width, 3) with the 16 bits of the number as black and white cells over the central square."""
    side = min(width, height)
    bits = (number >> np.arange(GRID * GRID) & 1).reshape(GRID, GRID)
    rows = np.arange(side) * GRID // side
    frame = np.full((height, width, 3), 96, np.uint8)
    top, left = (height - side) // 2, (width - side) // 2
    frame[top : top + side, left : left + side] = (bits[rows][:, rows] * 255)[:, :, None]
    return frame


def numbers_of(frames: np.ndarray) -> list[int]:
    """Read the numbers of (n, side, side, 3) frames that show the central square."""
    n, side = frames.shape[:2]
    cell = side // GRID
    grey = frames.astype(float).mean(3)[:, : cell * GRID, : cell * GRID]
    bits = grey.reshape(n, GRID, cell, GRID, cell).mean((2, 4)).reshape(n, -1) > 127
    return [int(number) for number in bits @ (1 << np.arange(GRID * GRID))]


def write_video(
    path: Path,
    frames: Iterable[np.ndarray] | int,
    *,
    codec: str = "libx264",
    pixels: str = "yuv420p",
    fps: int = 25,
    times_ms: Sequence[int] | None = None,
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
) -> Path:
    """Write frames (or so many numbered ones), evenly in time or at the given milliseconds."""
    if isinstance(frames, int):
        frames = [numbered_frame(number) for number in range(frames)]
    if options is None and codec == "libx264":
        options = {"preset": "ultrafast", "crf": "12"}
    with av.open(str(path), "w", options=container_options or {}) as container:
        stream = container.add_stream(codec, rate=fps, options=options or {})
        stream.pix_fmt = pixels
        if times_ms is not None:
            stream.codec_context.time_base = MILLISECOND
        for index, pixel_values in enumerate(frames):
            if index == 0:
                stream.height, stream.width = pixel_values.shape[:2]
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixel_values), format="rgb24")
            frame.pts = index if times_ms is None else times_ms[index]
            frame.time_base = Fraction(1, fps) if times_ms is None else MILLISECOND
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def write_images(
    folder: Path, frames: Iterable[np.ndarray] | int, *, name: str = "img_{:05d}.jpg", first: int = 1
) -> Path:
    """Write frames (or so many numbered ones) as the images of a video."""
    if isinstance(frames, int):
        frames = [numbered_frame(number) for number in range(frames)]
    folder.mkdir(parents=True, exist_ok=True)
    for number, frame in enumerate(frames, start=first):
        Image.fromarray(frame).save(folder / name.format(number), quality=95)
    return folder


def remux(source: Path, target: Path, *, shift: int = 0, container_options: dict[str, str] | None = None) -> Path:
    """Copy the packets of a video into another container, ``shift`` frames earlier."""
    with av.open(str(source)) as old, av.open(str(target), "w", options=container_options or {}) as new:
        video = old.streams.video[0]
        stream = new.add_stream_from_template(video)
        offset = round(shift / video.average_rate / video.time_base)
        for packet in old.demux(video):
            if packet.size:
                packet.pts -= offset
                packet.dts -= offset
                packet.stream = stream
                new.mux(packet)
    return target


def write_packets(path: Path, template: Path, packets: Sequence[tuple[int, bytes]]) -> Path:
    """Write packets of bytes, each at its tick of the frame rate, as a stream like the template's."""
    with av.open(str(template)) as old, av.open(str(path), "w") as new:
        video = old.streams.video[0]
        stream = new.add_stream_from_template(video)
        for tick, content in packets:
            packet = av.Packet(content)
            packet.pts = packet.dts = tick
            packet.duration = 1
            packet.time_base = 1 / video.average_rate
            packet.is_keyframe = tick == 0
            packet.stream = stream
            new.mux(packet)
    return path


def packets_of(path: Path) -> list[bytes]:
    """Return the bytes of each packet of the first video stream."""
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(video=0) if packet.size]


def write_sound(path: Path) -> Path:
    """Write a second of silence, and no picture."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def corrupted(source: Path, target: Path, start: int, content: bytes) -> Path:
    """Copy a file with some bytes from ``start`` on replaced."""
    data = bytearray(source.read_bytes())
    end = min(start + len(content), len(data))
    data[start:end] = content[: end - start]
    target.write_bytes(data)
    return target


def truncated(source: Path, target: Path, size: int) -> Path:
    """Copy the first ``size`` bytes of a file."""
    target.write_bytes(source.read_bytes()[:size])
    return target


class TinyBackbone(Backbone):
    """In place of I3D: the mean colour of each of 4 x 4 parts of each superframe, so 3 channels, t = 1."""

    name, title, endpoint = "i3d", "I3D", "Mixed_5c"

    def __init__(self) -> None:
        super().__init__()
        self.weights_name = "tiny"
        self.weights_digest = "sha256:0"
        self.scale = nn.Parameter(torch.ones(()))
        self.batches: list[int] = []

    def features(self, clip: Tensor, endpoint: str = "Mixed_5c") -> Tensor:
        """Return (B, 3, 1, 4, 4)."""
        self.batches.append(len(clip))
        return nn.functional.adaptive_avg_pool3d(clip * self.scale, (1, GRID, GRID))
