"""Synthetic scenes with known truth, rendered from parameters: what backgrounds are scored on (bench_quality.py).

    frame = light(time) × (empty place + animals, people and their shadows) + sensor noise

Each scene has one difficulty. `Scene.variant(seed)` is another instance of the same difficulty: other colours, texture,
places and paths, so that no method need be tuned to single pictures. The same parameters give the same frames wherever
NumPy and OpenCV are of the same version. The truth has no noise. Where the light changes, it is the empty place in the
light that most samples have; where none has most (drift, flicker), in the middle one.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import cv2
import numpy as np
import scene_drawing as drawing
from numpy.typing import NDArray
from scene_actors import Actor, passer_by, porter, rodent
from scene_drawing import Picture, Random

Frame = NDArray[np.uint8]  # (H, W, 3) BGR

_SLACK = 96  # pixels by which the noise field is larger than a frame
_INFRARED = np.array([0.15, 0.35, 0.5], np.float32)  # of B, G and R in what a camera sees at night


@dataclass(frozen=True)
class Scene:
    """One synthetic recording. `name` and `seed` decide all that is random."""

    name: str
    shows: str
    seed: int = 1
    width: int = 320  # at least 160x120: animals and things keep their size
    height: int = 240
    count: int = 600  # frames
    fps: int = 30
    every: int = 5  # which frames are samples, as in Config
    place: Literal["cage", "open field", "hall", "garden"] = "cage"
    animals: int = 2
    asleep: float = 0.0  # share of the frames that each animal sleeps, in one go, in one place
    people: int = 0
    contrast: float = 1.0  # of animals to the floor; 0: none
    shade: float = 0.3  # by how much shadows darken
    long_shadows: bool = False
    noise: float = 2.0  # standard deviation in grey levels; at night half as much again
    light: Literal["steady", "drift", "step", "day and night", "flicker"] = "steady"
    share: float = 0.5  # of the frames that have the first light, or the object in the first place
    moved: bool = False

    def variant(self, seed: int) -> Scene:
        """Another instance of the same difficulty; with an even seed the second light or place has the larger share."""
        return replace(self, seed=seed)

    @property
    def first_share(self) -> float:
        """Of the frames: those in the first light, or with the object in its first place."""
        return self.share if self.seed % 2 else 1 - self.share

    def frames(self, numbers: Iterable[int] | None = None) -> Iterator[Frame]:
        """These frames, or all of them; a frame is the same whichever others are asked for."""
        for frame, _ in self.rendered(numbers):
            yield frame

    @property
    def sample_numbers(self) -> range:
        """The frames that `every` makes samples, as in Config."""
        return range(self.every - 1, self.count, self.every)

    @cached_property
    def truth(self) -> Frame:
        """The empty place in the light that holds for most samples; by day if day and night are equally long."""
        return self.truth_in(self.main_regime)

    @property
    def truths(self) -> tuple[Frame, ...]:
        """The truth, and of lights that hold equally long each one's: none is more right than the other."""
        tie = self.light == "day and night" and self.first_share == 0.5
        return (self.truth, self.truth_in(1)) if tie else (self.truth,)

    @property
    def main_regime(self) -> int:
        """Whether the first (0) or the second (1) light holds longer."""
        return int(self.light in ("step", "day and night") and self.first_share < 0.5)

    def truth_in(self, regime: int) -> Frame:
        """The empty place in light 0 (before a step, by day) or 1 (after it, at night)."""
        canvas = self._empty.copy()
        if self.moved:
            self._put_box(canvas, np.zeros(canvas.shape[:2], np.float32), self._right_spot)
        moment = {"step": (0, self.count - 1)[regime], "day and night": (0, self._first_night)[regime]}
        if self.light == "flicker":
            return _rounded(canvas)
        return _rounded(self._lit(canvas, moment.get(self.light, self.count // 2)))

    def regime(self, number: int) -> int:
        """Which light frame `number` has: 1 after a step or at night, else 0. Day and night take turns, twice each."""
        if self.light == "step":
            return int(number >= self.first_share * self.count)
        if self.light == "day and night":
            return int((number % (self.count // 2)) >= self.first_share * (self.count // 2))
        return 0

    def rendered(self, numbers: Iterable[int] | None = None) -> Iterator[tuple[Frame, Picture]]:
        """Frames, and how much each of their pixels is not the empty place (H, W), from 0 to 1."""
        rng = self._random("frames")
        field = rng.normal(0, 1, (self.height + _SLACK, self.width + _SLACK, 3)).astype(np.float32)
        offsets = rng.integers(0, _SLACK, (self.count, 2))
        actors = self._actors()
        for number in range(self.count) if numbers is None else numbers:
            canvas, covered = self._background(number)
            for actor in actors:
                actor.draw(canvas, covered, number)
            top, left = offsets[number]
            noise = self.noise * field[top : top + self.height, left : left + self.width]
            if self.light == "day and night" and self.regime(number):
                noise = np.repeat(1.5 * noise[:, :, :1], 3, axis=2)
            yield cv2.add(self._lit(canvas, number), noise, dtype=cv2.CV_8U).astype(np.uint8, copy=False), covered

    def _random(self, what: str) -> Random:
        """One stream for each purpose, so that a longer film has the same place and animals."""
        return np.random.default_rng([self.seed, zlib.crc32(f"{self.name} {what}".encode())])

    @cached_property
    def _built(self) -> tuple[Picture, Picture]:
        """The empty place, and how much of each pixel waves."""
        rng, size = self._random("place"), (self.height, self.width)
        if self.place == "garden":
            return drawing.garden(rng, *size)
        if self.place == "hall":
            place = drawing.hall(rng, *size)
        elif self.place == "open field":
            tones = [(150, 158, 160), (92, 98, 104), (176, 178, 176)]
            place = drawing.open_field(rng, *size, tones[int(rng.integers(3))])
        else:
            place = drawing.cage(rng, *size)
        return place, np.zeros(size, np.float32)

    @property
    def _empty(self) -> Picture:
        return self._built[0]

    @cached_property
    def _grid(self) -> NDArray[np.float32]:
        """(2, H, W): the row and the column of each pixel."""
        return np.mgrid[0 : self.height, 0 : self.width].astype(np.float32)

    def _background(self, number: int) -> tuple[Picture, Picture]:
        """The place as it is at this frame: plants wave, an object has been moved."""
        waving = self._built[1]
        covered = np.zeros((self.height, self.width), np.float32)
        if self.place == "garden":
            y, x = self._grid
            gust = 1.6 + 1.2 * math.sin(number / 37)
            dx = waving * gust * np.sin(number / 5.3 + x / 31 + y / 17)
            dy = waving * 0.4 * gust * np.sin(number / 4.1 + x / 23)
            return cv2.remap(
                self._empty, x + dx, y + dy, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT
            ), waving.copy()
        canvas = self._empty.copy()
        if self.moved:
            self._put_box(canvas, covered, self._box_at(number))
        return canvas, covered

    @cached_property
    def _spots(self) -> NDArray[np.float64]:
        """(2, 2): where the object stands before and after."""
        rng = self._random("object")
        first = rng.uniform([80, 70], [self.width - 80, self.height - 90])
        away = rng.uniform([50, 15], [80, 40]) * np.where(first > [self.width / 2, self.height / 2], -1, 1)
        return np.stack([first, first + away])

    @property
    def _right_spot(self) -> NDArray[np.float64]:
        spot: NDArray[np.float64] = self._spots[int(self.first_share < 0.5)]
        return spot

    def _box_at(self, number: int) -> NDArray[np.float64]:
        """It is moved within 20 frames."""
        done = float(np.clip((number - self.first_share * self.count) / 20 + 0.5, 0, 1))
        spot: NDArray[np.float64] = self._spots[0] + done * (self._spots[1] - self._spots[0])
        return spot

    def _put_box(self, canvas: Picture, covered: Picture, spot: NDArray[np.float64]) -> None:
        """Draws the object; while it is not where the truth has it, both places count as covered."""
        drawing.paste(canvas, np.zeros_like(covered), self._box, (float(spot[0]), float(spot[1])))
        if not np.allclose(spot, self._right_spot):
            for wrong in (spot, self._right_spot):
                drawing.paste(canvas.copy(), covered, self._box, (float(wrong[0]), float(wrong[1])))

    @cached_property
    def _box(self) -> Picture:
        return drawing.box(self._random("box"))

    @cached_property
    def _lamps(self) -> tuple[Picture, Picture]:
        """(H, W, 3) each: by what the first and the second light multiply."""
        rng, size = self._random("light"), (self.height, self.width)
        first = drawing.lamp(rng, *size, 0.2) * np.ones(3, np.float32)
        second = drawing.lamp(rng, *size, 0.3) * rng.uniform([0.5, 0.55, 0.58], [0.62, 0.66, 0.72]).astype(np.float32)
        if self.light == "step":
            return first, second
        if self.light == "drift":
            return (first * 0.72).astype(np.float32), first[:, ::-1] * np.float32(1.05)
        return np.ones_like(first), second

    def _lit(self, canvas: Picture, number: int) -> Picture:
        """What the camera sees of the canvas in the light of this frame."""
        first, second = self._lamps
        if self.light == "drift":
            late = number / max(1, self.count - 1)
            return canvas * ((1 - late) * first + late * second)
        if self.light == "flicker":  # mains against the camera's clock: a beat of no whole number of frames
            return canvas * np.float32(1 + 0.055 * math.sin(number * 2.39) + 0.015 * math.sin(number * 0.71))
        if self.light == "day and night" and self.regime(number):
            grey = canvas @ _INFRARED
            return np.repeat((grey * second.mean(axis=2) + 6)[:, :, None], 3, axis=2)
        if self.light == "step":
            return canvas * (first, second)[self.regime(number)]
        return canvas

    @property
    def _first_night(self) -> int:
        return next((number for number in range(self.count) if self.regime(number)), 0)

    def _actors(self) -> list[Actor]:
        rng, count = self._random("actors"), self.count
        looks = self.asleep, self.contrast, self.shade, self.long_shadows
        cast = [rodent(rng, count, self._empty, number + self.seed, *looks) for number in range(self.animals)]
        cast += [passer_by(rng, count, self.width, self.height, number % 4 == 0) for number in range(self.people)]
        if self.moved:
            places = np.array([self._box_at(number) for number in range(count)])
            cast.append(porter(self._random("porter"), places, round(self.first_share * count)))
        return cast


def _rounded(picture: Picture) -> Frame:
    return np.clip(np.rint(picture), 0, 255).astype(np.uint8)


SCENES = {
    scene.name: scene
    for scene in (
        Scene("asleep-40", "two animals that sleep 40 % of the time, each in one place", asleep=0.40),
        Scene("asleep-55", "two animals that sleep 55 % of the time", asleep=0.55),
        Scene("asleep-70", "three animals that sleep 70 % of the time", animals=3, asleep=0.70),
        Scene("asleep-90", "two animals that sleep 90 % of the time", asleep=0.90),
        Scene("drift", "light that grows by 45 % and moves across; truth: the light at half time", light="drift"),
        Scene(
            "light-step", "a lamp goes out, 65 % and 35 % of the time; truth: the longer one", light="step", share=0.65
        ),
        Scene(
            "day-night-50",
            "day and infrared night, half each, twice; truth: by day, or by night where that is nearer",
            light="day and night",
            share=0.5,
        ),
        Scene(
            "day-night-70",
            "70 % day, 30 % infrared night (even seeds: 70 % night); truth: the longer one",
            light="day and night",
            share=0.7,
        ),
        Scene("flicker", "a lamp that flickers by 7 %; truth: its mean", light="flicker", asleep=0.3),
        Scene("noise-2", "sensor noise of 2 grey levels", noise=2.0, asleep=0.3),
        Scene("noise-6", "sensor noise of 6 grey levels", noise=6.0, asleep=0.3),
        Scene("noise-14", "sensor noise of 14 grey levels", noise=14.0, asleep=0.3),
        Scene("crowd", "many people; some places are covered most of the time", place="hall", animals=0, people=16),
        Scene(
            "camouflage",
            "animals nearly the colour of the floor, asleep half of the time",
            place="open field",
            asleep=0.55,
            contrast=0.15,
        ),
        Scene("short", "12 samples, two animals asleep 45 % of the time", count=360, every=30, asleep=0.45),
        Scene(
            "shadows",
            "long shadows in a low sun, three animals asleep 45 %",
            animals=3,
            asleep=0.45,
            shade=0.4,
            long_shadows=True,
            place="open field",
        ),
        Scene(
            "moved",
            "somebody shifts a box; truth: where it stands 60 % of the time",
            moved=True,
            share=0.6,
            place="hall",
            animals=0,
            people=2,
        ),
        Scene("plants", "leaves that wave over a third of the picture; truth: at rest", place="garden", asleep=0.3),
    )
}
