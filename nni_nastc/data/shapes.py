"""Frames of coloured shapes that move, each in its own way, over a noisy gradient (our choice throughout).

Lengths are in half image sides: the image is from -1 to 1, and all shapes stay within the centre crop of I3D.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

SHAPES = ("red disc", "green square", "blue triangle", "yellow ring")
"""What the parts look like: the disc moves sideways, the square up and down, the triangle turns, the ring pulses."""

COLOURS = np.array([(220, 40, 40), (40, 190, 60), (50, 80, 230), (235, 210, 40)], dtype=np.float32)
REACH = 0.35
"""How far the disc and the square move to either side."""

RADIUS = 0.3
CENTRE_JITTER = 0.15
COLOUR_JITTER = 25
NOISE = 8


@dataclass(frozen=True)
class Motion:
    """How a shape looks and moves while its part lasts.

    Attributes
    ----------
    shape : int
        Index in ``SHAPES``.
    colour : np.ndarray
        RGB (3,) float32, 0 to 255.
    centre : np.ndarray
        Rest position x, y (2,).
    radius : float
        Size of the shape.
    speed : float
        Radians a frame, either sign; a swing is 2 pi.
    phase : float
        Radians at frame 0.
    """

    shape: int
    colour: np.ndarray
    centre: np.ndarray
    radius: float
    speed: float
    phase: float

    @classmethod
    def random(cls, shape: int, rng: np.random.Generator) -> Motion:
        """Draw colour, place, size, speed and phase."""
        return cls(
            shape=shape,
            colour=np.clip(COLOURS[shape] + rng.uniform(-COLOUR_JITTER, COLOUR_JITTER, 3), 0, 255).astype(np.float32),
            centre=rng.uniform(-CENTRE_JITTER, CENTRE_JITTER, 2),
            radius=RADIUS * rng.uniform(0.8, 1.2),
            speed=rng.choice([-1, 1]) * 2 * np.pi / rng.uniform(12, 24),
            phase=rng.uniform(0, 2 * np.pi),
        )

    def cover(self, x: np.ndarray, y: np.ndarray, frame: int) -> np.ndarray:
        """Return how far each pixel lies inside the shape at a frame; below 0 is outside."""
        angle = self.phase + self.speed * frame
        x, y = x - self.centre[0], y - self.centre[1]
        if self.shape == 0:
            return self.radius - np.hypot(x - REACH * np.sin(angle), y)
        if self.shape == 1:
            return 0.9 * self.radius - np.maximum(np.abs(x), np.abs(y - REACH * np.sin(angle)))
        if self.shape == 2:
            sides = angle + 2 * np.pi / 3 * np.arange(3)
            return 0.7 * self.radius - np.max([x * np.cos(side) + y * np.sin(side) for side in sides], axis=0)
        return 0.09 - np.abs(np.hypot(x, y) - self.radius * (1.1 + 0.5 * np.sin(angle)))


def draw_frames(parts: Sequence[tuple[int, int]], size: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Draw the frames of a video.

    Parameters
    ----------
    parts : sequence of (int, int)
        Shape and number of frames of each part, in order.
    size : int
        Height and width in pixels.
    rng : np.random.Generator
        All chance comes from here.

    Yields
    ------
    np.ndarray
        RGB (size, size, 3) uint8.
    """
    axis = ((np.arange(size) + 0.5) / size * 2 - 1).astype(np.float32)
    x, y = axis[None, :], axis[:, None]
    direction = rng.uniform(0, 2 * np.pi)
    slope = ((x * np.cos(direction) + y * np.sin(direction)) / 3 + 0.5).astype(np.float32)[..., None]
    ends = rng.uniform(50, 170, (2, 3)).astype(np.float32)
    background = slope * ends[0] + (1 - slope) * ends[1]
    for shape, frames in parts:
        motion = Motion.random(shape, rng)
        for frame in range(frames):
            alpha = np.clip(motion.cover(x, y, frame) * size / 2 + 0.5, 0, 1).astype(np.float32)[..., None]
            image = background + alpha * (motion.colour - background)
            image += rng.integers(-NOISE, NOISE, image.shape, dtype=np.int8, endpoint=True)
            yield np.clip(image, 0, 255).astype(np.uint8)
