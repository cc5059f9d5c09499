"""Who moves in the synthetic scenes of bench/scenes.py: rodents that walk and sleep, and people who pass."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import scene_drawing as drawing
from numpy.typing import NDArray
from scene_drawing import Picture, Random

Path = NDArray[np.float64]  # (count, 3): x, y in pixels, heading in radians

_BREATH = 15  # frames
_TURNS = tuple(2 * math.pi * turn / 36 for turn in range(36))  # directions with a long shadow of their own
_FURS = [(44, 46, 52), (210, 212, 214), (60, 84, 116), (36, 36, 38)]
_CLOTHES = [(40, 40, 160), (150, 90, 50), (60, 120, 60), (190, 190, 190), (50, 50, 56), (90, 140, 190)]


@dataclass(frozen=True)
class Shadow:
    """A sprite for each direction of the animal, or one that turns with it, and how far right and down it lies."""

    sprites: tuple[Picture, ...]
    far: float

    def draw(self, canvas: Picture, covered: Picture, stand: NDArray[np.float64], size: float) -> None:
        """The shadow of one that stands at x, y with a heading."""
        x, y, heading = (float(value) for value in stand)
        turns = len(self.sprites)
        turn = round(heading / (2 * math.pi) * turns) % turns
        at = x + self.far, y + 0.8 * self.far
        drawing.paste(canvas, covered, self.sprites[turn], at, heading if turns == 1 else 0.0, size)


@dataclass(frozen=True)
class Actor:
    """Who moves along a path, with pictures of the steps and the shadow; `sleep` is [begin, end) in frames."""

    path: Path
    sprites: tuple[Picture, ...]
    shadow: Shadow | None = None
    sleep: tuple[int, int] = (0, 0)

    def draw(self, canvas: Picture, covered: Picture, number: int) -> None:
        x, y, heading = (float(value) for value in self.path[number])
        sleeping = self.sleep[0] <= number < self.sleep[1]
        size = 1 + 0.012 * math.sin(2 * math.pi * number / _BREATH) if sleeping else 1.0
        step = 1 if sleeping else (0, 1, 2, 1)[number // 3 % 4]
        if self.shadow:
            self.shadow.draw(canvas, covered, self.path[number], size)
        drawing.paste(canvas, covered, self.sprites[step], (x, y), heading, size)


def rodent(
    rng: Random, count: int, place: Picture, turn: int, asleep: float, contrast: float, shade: float, long_shadow: bool
) -> Actor:
    """One that walks about and sleeps in one go, for this share of the time.

    `turn` chooses whether that is at the beginning, in the middle or at the end, and in which quarter of the place.
    `contrast` 0 is a fur of the colour of the floor where it sleeps, 1 any fur.
    """
    height, width = place.shape[:2]
    floor = 34.0, 34.0, width - 34.0, height - 34.0
    still = round(asleep * count)
    begin = (0, int((count - still) * rng.uniform(0.3, 0.7)), count - still)[turn % 3]
    quarter = np.array([turn % 2, turn % 4 // 2]) * [width / 2 - 20, height / 2 - 20]
    bed = quarter + 50 + rng.uniform(0, 1, 2) * [width / 2 - 90, height / 2 - 80]
    path = rest(rng, count, begin, still, bed, floor) if still else wander(rng, count, bed, floor)
    x, y = (int(value) for value in bed)
    under = place[y - 20 : y + 20, x - 20 : x + 20].mean(axis=(0, 1))
    fur = np.array(_FURS[int(rng.integers(len(_FURS)))] if contrast >= 1 else _FURS[0])
    blue, green, red = (float(value) for value in under + contrast * (fur - under))
    sprites = _steps(drawing.animal, rng, float(rng.uniform(30, 40)), (blue, green, red))
    if long_shadow:
        shadow = Shadow(tuple(drawing.cast(sprites[1], heading, shade) for heading in _TURNS), 12.0)
    else:
        shadow = Shadow((drawing.shadow_of(sprites[1], shade, 2.5),), 3.0)
    return Actor(path, sprites, shadow, (begin, begin + still))


def passer_by(rng: Random, count: int, width: int, height: int, stands: bool) -> Actor:
    """Somebody who crosses along a lane again and again, or who `stands` there for a third of the time."""
    tall = float(rng.uniform(66, 88))
    sprites = _steps(drawing.person, rng, tall, _CLOTHES[int(rng.integers(len(_CLOTHES)))])
    speed, y = float(rng.uniform(1.1, 3.2)), height * float(rng.uniform(0.50, 0.64))
    right, around = bool(rng.random() < 0.5), width + 80
    along = rng.uniform(0, around) + speed * np.arange(count)
    if stands:
        stop, stay = int(rng.uniform(0, 0.6) * count), count // 3
        along += width * float(rng.uniform(0.3, 0.7)) + 40 - along[stop]
        along[stop + stay :] = along[stop : count - stay]
        along[stop : stop + stay] = along[stop] + 1.5 * np.sin(np.arange(stay) / 9)
    x = along % around - 40
    sway = 1.2 * np.abs(np.sin(np.arange(count) * speed / 7))
    path = np.stack([x if right else width - x, y - sway, np.zeros(count)], axis=1)
    return Actor(path, sprites)


def porter(rng: Random, load: NDArray[np.float64], at: int) -> Actor:
    """Somebody who comes for the load, whose places are (count, 2), moves it around frame `at`, and goes."""
    path = np.full((len(load), 3), -200.0)
    for number in range(max(0, at - 45), min(len(load), at + 45)):
        away = max(0, abs(number - at) - 10) * 6.0
        path[number] = load[number, 0] + 4, load[number, 1] - 26 - away, 0
    return Actor(path, _steps(drawing.person, rng, 84.0, _CLOTHES[0]))


def wander(rng: Random, count: int, start: NDArray[np.float64], floor: tuple[float, float, float, float]) -> Path:
    """A walk of `count` frames from `start`, never out of `floor` (left, top, right, bottom)."""
    low, high = np.array(floor[:2]), np.array(floor[2:])
    place, heading = np.array(start, np.float64), float(rng.uniform(0, 2 * math.pi))
    speed, path = 2.5, np.empty((count, 3))
    for number in range(count):
        path[number] = *place, heading
        heading += float(rng.normal(0, 0.16))
        speed = float(np.clip(speed + rng.normal(0, 0.25), 1.2, 4.5))
        ahead = place + 6 * speed * np.array([math.cos(heading), math.sin(heading)])
        if np.any(ahead < low) or np.any(ahead > high):
            to_middle = (low + high) / 2 - place
            off = math.atan2(to_middle[1], to_middle[0]) - heading
            heading += 0.35 * math.copysign(1.0, math.sin(off))
        place = np.clip(place + speed * np.array([math.cos(heading), math.sin(heading)]), low, high)
    return path


def rest(
    rng: Random, count: int, begin: int, asleep: int, place: NDArray[np.float64], floor: tuple[float, ...]
) -> Path:
    """A walk that leads to `place` at frame `begin`, stays there for `asleep` frames, and goes on."""
    bounds = floor[0], floor[1], floor[2], floor[3]
    before = wander(rng, begin + 1, place, bounds)[:0:-1]  # walked backwards
    before[:, 2] += math.pi
    heading = before[-1, 2] if begin else float(rng.uniform(0, 2 * math.pi))
    after = wander(rng, count - begin - asleep + 1, place, bounds)[1:]
    return np.concatenate([before, np.tile([*place, heading], (asleep, 1)), after])


def _steps(draw: drawing.Draw, rng: Random, size: float, tone: tuple[float, float, float]) -> tuple[Picture, ...]:
    """Three steps of the same animal or person: the same random numbers for each."""
    seed = int(rng.integers(2**31))
    return tuple(draw(np.random.default_rng(seed), size, tone, step) for step in range(3))
