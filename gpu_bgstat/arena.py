"""A synthetic arena with moving animals and a known true background, rendered from parameters into a real video file.

The camera is fixed. Animals walk, sleep for a while at one place, and walk on. Every frame is

    truth  +  animals with soft shadows  +  sensor noise (Gaussian, `noise` grey levels)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from gpu_bgstat.frames import Image

_MARGIN = 64  # pixels by which the noise field is larger than a frame


@dataclass(frozen=True)
class Arena:
    """What is filmed. The same parameters give the same frames on every machine."""

    width: int = 640
    height: int = 480
    frames_per_s: int = 30
    animals: int = 4
    asleep: float = 0.3  # share of its time that an animal sits still
    noise: float = 1.2  # standard deviation in grey levels
    seed: int = 7

    def truth(self) -> Image:
        """The empty arena, (H, W, 3) uint8 BGR: a round floor of wood chips in a box, a shelter, uneven light."""
        rng = np.random.default_rng(self.seed)
        h, w = self.height, self.width
        y, x = np.mgrid[0:h, 0:w].astype(np.float32)
        radius = np.hypot((x - w / 2) / (0.46 * min(w, h)), (y - h / 2) / (0.46 * min(w, h)))
        chips = sum(
            amplitude * cv2.resize(rng.standard_normal((h // step + 2, w // step + 2)).astype(np.float32), (w, h))
            for step, amplitude in ((2, 5.0), (5, 7.0), (23, 5.0))
        )
        floor = np.stack([140 + 0.8 * chips, 165 + chips, 182 + chips], axis=2)
        box = np.stack([58 + 0.012 * y, 52 + 0.012 * y, 50 + 0.012 * y], axis=2)
        scene = np.where((radius < 1)[:, :, None], floor, box)
        rim = np.exp(-(((radius - 1) / 0.018) ** 2))[:, :, None]
        scene = scene * (1 - rim) + 205 * rim
        scene *= (1.05 - 0.22 * np.hypot((x - 0.35 * w) / w, (y - 0.3 * h) / h))[:, :, None]
        image: Image = np.clip(scene, 0, 255).astype(np.uint8)
        corner = (int(0.62 * w), int(0.22 * h))
        cv2.rectangle(image, corner, (corner[0] + w // 9, corner[1] + h // 9), (64, 92, 120), -1, cv2.LINE_AA)
        cv2.circle(image, (int(0.4 * w), int(0.78 * h)), h // 22, (200, 190, 170), -1, cv2.LINE_AA)
        return image

    def frames(self, count: int) -> Iterator[Image]:
        """`count` frames, (H, W, 3) uint8 BGR."""
        rng = np.random.default_rng(self.seed + 1)
        truth = self.truth()
        shape = (self.height + _MARGIN, self.width + _MARGIN, 3)
        field = np.rint(rng.normal(0, self.noise, shape)).astype(np.int16)
        walks = [_walk(rng, count, self) for _ in range(self.animals)]
        for number in range(count):
            frame = truth.copy()
            for walk in walks:
                x, y, heading = walk[number]
                _draw(frame, x, y, heading, self.height / 34)
            top, left = rng.integers(0, _MARGIN, 2)
            noisy = frame + field[top : top + self.height, left : left + self.width]
            yield np.clip(noisy, 0, 255).astype(np.uint8)

    def film(self, path: Path, count: int, codec: str = "libx264") -> None:
        """Writes `count` frames into a video file; the container follows from the suffix."""
        with av.open(str(path), "w") as container:
            stream: Any = container.add_stream(codec, rate=Fraction(self.frames_per_s))
            stream.width, stream.height, stream.pix_fmt = self.width, self.height, "yuv420p"
            if codec == "libx264":
                stream.options = {"crf": "12", "preset": "superfast"}
            else:
                stream.bit_rate = 8_000_000
            for pixels in self.frames(count):
                planes: Any = cv2.cvtColor(pixels, cv2.COLOR_BGR2YUV_I420)  # rounds, where swscale truncates
                container.mux(stream.encode(av.VideoFrame.from_ndarray(planes, format="yuv420p")))
            container.mux(stream.encode())


def _walk(rng: np.random.Generator, count: int, arena: Arena) -> NDArray[np.float64]:
    """(count, 3): x, y in pixels and heading in radians of one animal; it never leaves the floor."""
    reach = 0.40 * min(arena.width, arena.height)
    speed = arena.height / 160  # pixels a frame
    place, heading = rng.uniform(-0.5, 0.5, 2) * reach, rng.uniform(0, 2 * np.pi)
    sleeping, left = False, 0
    path = np.empty((count, 3))
    for number in range(count):
        if left == 0:  # naps and walks take turns; their mean lengths give the share asleep
            sleeping = not sleeping and arena.asleep > 0
            share = arena.asleep if sleeping else 1 - arena.asleep
            left = 1 + int(rng.exponential(20 * arena.frames_per_s * share))
        left -= 1
        if not sleeping:
            heading += rng.normal(0, 0.12)
            step = place + speed * np.array([np.cos(heading), np.sin(heading)])
            if np.hypot(*step) > reach:
                heading += 0.5
            else:
                place = step
        path[number] = arena.width / 2 + place[0], arena.height / 2 + place[1], heading
    return path


def _draw(frame: Image, x: float, y: float, heading: float, size: float) -> None:
    """A mouse from above: shadow, tail, body, head and ears; positions to 1/16 pixel."""
    along, across = np.array([np.cos(heading), np.sin(heading)]), np.array([-np.sin(heading), np.cos(heading)])
    centre, degrees = np.array([x, y]), float(np.degrees(heading))
    shift = 4

    def fixed(point: NDArray[np.float64]) -> tuple[int, int]:
        x, y = np.rint(point * 2**shift)
        return int(x), int(y)

    def blob(at: NDArray[np.float64], length: float, width: float, color: tuple[int, int, int]) -> None:
        axes = int(length * 2**shift), int(width * 2**shift)
        cv2.ellipse(frame, fixed(at), axes, degrees, 0, 360, color, -1, cv2.LINE_AA, shift)

    reach = int(2.2 * size)
    top, left = max(0, int(y) - reach), max(0, int(x) - reach)
    patch = frame[top : int(y) + reach, left : int(x) + reach]
    shaded = frame.copy() if not patch.size else patch.copy()
    cv2.circle(shaded, (int(x) - left + 3, int(y) - top + 4), int(1.2 * size), (0, 0, 0), -1, cv2.LINE_AA)
    cv2.addWeighted(patch, 0.88, shaded, 0.12, 0, dst=patch)
    tail = centre - 2.3 * size * along + 0.5 * size * across
    cv2.line(frame, fixed(centre - size * along), fixed(tail), (96, 104, 130), 2, cv2.LINE_AA, shift)
    blob(centre, 1.25 * size, 0.75 * size, (44, 46, 52))
    blob(centre + 1.2 * size * along, 0.6 * size, 0.42 * size, (52, 54, 60))
    for side in (-1, 1):
        blob(centre + 0.95 * size * along + side * 0.42 * size * across, 0.22 * size, 0.22 * size, (88, 92, 120))
