"""What the synthetic scenes of bench/scenes.py are made of: empty places, and animals and people with soft outlines.

Pictures are float32 BGR from 0 to 255. A sprite is (h, w, 4): BGR times alpha, and alpha from 0 to 1, at double size.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

Picture = NDArray[Any]  # float32
Random = np.random.Generator
Draw = Callable[[np.random.Generator, float, tuple[float, float, float], int], Picture]

Choice = TypeVar("Choice")

_FINER = 2  # a sprite's pixels to one of the frame


def grain(rng: Random, height: int, width: int, scales: tuple[tuple[int, float], ...]) -> Picture:
    """(H, W): smooth noise, a sum of layers (size of a grain in pixels, deviation in grey levels)."""
    total = np.zeros((height, width), np.float32)
    for size, deviation in scales:
        coarse = rng.standard_normal((height // size + 3, width // size + 3)).astype(np.float32)
        layer = cv2.resize(coarse, None, fx=size, fy=size, interpolation=cv2.INTER_CUBIC)[:height, :width]
        total += layer * (deviation / max(float(layer.std()), 1e-3))
    return total


def cage(rng: Random, height: int, width: int) -> Picture:
    """From above: litter between dark walls, a nest box, a water bottle, a lamp to one side."""
    tone = np.array(_one(rng, [(120, 150, 172), (150, 160, 166), (92, 112, 128)]), np.float32)
    litter = grain(rng, height, width, ((2, 7.0), (4, 8.0), (30, 5.0)))
    place = tone + litter[:, :, None] * np.array([0.75, 0.95, 1.0], np.float32)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    inward = np.minimum(np.minimum(x, width - 1 - x), np.minimum(y, height - 1 - y))
    wall = np.clip(14 - inward, 0, 1)[:, :, None]
    place = place * (1 - wall) + (58 + 1.6 * inward[:, :, None] + 0.15 * litter[:, :, None]) * wall
    place *= (1 - 0.35 * np.exp(-np.clip(inward - 14, 0, None) / 6))[:, :, None]
    left, top = _one(rng, [(26, 24), (width - 86, 26), (28, height - 74)])
    _board(place, (left, top, 58, 46), _one(rng, [(62, 92, 130), (70, 110, 88), (128, 96, 80)]), rng)
    bottle = (width // 2 + int(rng.integers(-40, 40)), 17)
    _blob(place, bottle, (9, 13), (206, 190, 168), 0.9)
    _blob(place, (bottle[0] - 3, bottle[1] - 4), (2, 5), (240, 236, 228), 0.8)
    place *= lamp(rng, height, width, 0.25)
    return _clipped(place)


def open_field(rng: Random, height: int, width: int, tone: tuple[int, int, int]) -> Picture:
    """From above: a round floor of nearly one tone, with scratches and stains."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    radius = np.hypot((x - width / 2) / (0.56 * width), (y - height / 2) / (0.5 * height))
    floor = np.array(tone, np.float32) + grain(rng, height, width, ((2, 2.5), (9, 3.5), (40, 5.0)))[:, :, None]
    for _ in range(14):
        start, end = rng.uniform(0, [width, height], (2, 2))
        end = start + 0.2 * (end - start)
        shade = float(rng.uniform(-14, 14))
        line = np.zeros((height, width), np.float32)
        cv2.line(line, _whole(start), _whole(end), 1.0, 1, cv2.LINE_AA)
        floor += shade * line[:, :, None]
    outside = 46 + grain(rng, height, width, ((3, 3.0),))[:, :, None]
    inner = 1 / (1 + np.exp((radius - 0.97) * 60))[:, :, None]
    place = floor * inner + outside * (1 - inner) + 90 * np.exp(-(((radius - 0.98) / 0.015) ** 2))[:, :, None]
    place *= lamp(rng, height, width, 0.2)
    return _clipped(place)


def hall(rng: Random, height: int, width: int) -> Picture:
    """From a corner of the ceiling: tiles, a wall with doors and posters, a bench."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    depth = np.clip((y - 0.3 * height) / (0.7 * height), 0.02, 1)
    seam = np.minimum(
        np.abs(np.mod((x - width / 2) / (0.25 + depth), 34) - 17), np.abs(np.mod(26 * depth**0.6, 4) - 2) * 6
    )
    tiles = 150 + 26 * depth + grain(rng, height, width, ((2, 3.0), (17, 4.0))) - 34 * np.exp(-((seam / 1.2) ** 2))
    place = tiles[:, :, None] * np.array([0.9, 0.97, 1.0], np.float32)
    wall = (178 - 0.2 * y + grain(rng, height, width, ((3, 2.5), (50, 6.0))))[:, :, None]
    place = np.where((y < 0.3 * height)[:, :, None], wall * np.array([0.98, 0.95, 0.9], np.float32), place)
    place = place.astype(np.float32)
    for at in (0.12, 0.47, 0.78):
        colour = _one(rng, [(54, 70, 104), (96, 84, 70), (66, 92, 70), (120, 120, 168)])
        _board(place, (int((at + rng.uniform(-0.04, 0.04)) * width), 18, 34, int(0.3 * height) - 20), colour, rng)
    _board(place, (int(rng.uniform(0.1, 0.7) * width), int(0.38 * height), 62, 12), (48, 66, 92), rng)
    place *= lamp(rng, height, width, 0.3)
    return _clipped(place)


def garden(rng: Random, height: int, width: int) -> tuple[Picture, Picture]:
    """A terrace before plants, and how much each pixel belongs to the plants (H, W), from 0 to 1."""
    place = open_field(rng, height, width, (138, 148, 152))
    plants = np.zeros((height, width), np.float32)
    for _ in range(140):
        at = rng.uniform(0, width), height * float(rng.beta(1, 4.5))
        if rng.random() < 0.3:
            at = width - width * float(rng.beta(1, 7)), rng.uniform(0, height)
        tilt, length = float(rng.uniform(0, 180)), float(rng.uniform(6, 17))
        leaf = np.zeros((height, width), np.uint8)
        axes = int(length), max(2, int(length * 0.3))
        cv2.ellipse(leaf, _whole(np.array(at)), axes, tilt, 0, 360, 255, -1, cv2.LINE_AA)
        alpha = (leaf.astype(np.float32) / 255)[:, :, None]
        shade = float(rng.uniform(0.55, 1.35))
        green = np.array([52, 116, 82], np.float32) * shade * (1 + 0.05 * rng.standard_normal(3).astype(np.float32))
        place = place * (1 - alpha) + green * alpha
        plants = np.maximum(plants, alpha[:, :, 0])
    place = place + grain(rng, height, width, ((2, 2.0),))[:, :, None]
    waving = cv2.GaussianBlur(cv2.dilate(plants, np.ones((5, 5))), (0, 0), 3)
    return _clipped(place), np.clip(1.1 * waving - 0.1, 0, 1)


def lamp(rng: Random, height: int, width: int, fall: float) -> Picture:
    """(H, W, 1): the light of a lamp somewhere above, 1 below it and less by `fall` at the far corner."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    at = rng.uniform(0.15, 0.85, 2)
    far = np.hypot(x / width - at[0], y / height - at[1])
    light: Picture = (1 + 0.3 * fall - fall * far / far.max())[:, :, None].astype(np.float32)
    return light


def box(rng: Random) -> Picture:
    """A sprite: a crate of about 40 pixels, with slats and a label."""
    side = 40 * _FINER
    picture = np.empty((side + 8, side + 8, 3), np.float32)
    picture[:] = _one(rng, [(70, 120, 190), (160, 120, 70), (90, 90, 170)])
    picture += grain(rng, side + 8, side + 8, ((2, 5.0), (9, 5.0)))[:, :, None]
    picture[:: side // 5] *= 0.7
    picture[side // 3 : side // 2, side // 4 : side // 2] = (210, 214, 216)
    alpha = np.zeros((side + 8, side + 8), np.float32)
    alpha[4:-4, 4:-4] = 1
    return _sprite(picture, cv2.GaussianBlur(alpha, (0, 0), 1.2))


def animal(rng: Random, length: float, tone: tuple[float, float, float], step: int = 0) -> Picture:
    """A sprite, heading right: a rodent from above, fur along the body, ears, and a tail that swings with `step`."""
    half = int(1.25 * length * _FINER)
    size, unit = 2 * half, length * _FINER
    shape = np.zeros((size, size), np.uint8)
    cv2.ellipse(shape, (half, half), (int(0.42 * unit), int(0.25 * unit)), 0, 0, 360, 255, -1, cv2.LINE_AA)
    nose = half + int(0.45 * unit), half + (step - 1)
    cv2.ellipse(shape, nose, (int(0.24 * unit), int(0.14 * unit)), 0, 0, 360, 255, -1, cv2.LINE_AA)
    bends = np.linspace(0, 1, 9)
    tail = np.stack(
        [half - unit * (0.36 + 0.62 * bends), half + unit * 0.12 * np.sin(3.2 * bends + (step - 1) * 0.9) * bends],
        axis=1,
    )
    cv2.polylines(shape, [np.rint(tail).astype(np.int32)], False, 200, max(2, int(0.05 * unit)), cv2.LINE_AA)
    fur = cv2.resize(rng.standard_normal((size, size // 5)).astype(np.float32), (size, size))
    picture = np.array(tone, np.float32) + 9 * fur[:, :, None] + grain(rng, size, size, ((5, 5.0),))[:, :, None]
    ridge = np.exp(-(((np.arange(size) - half) / (0.16 * unit)) ** 2)).astype(np.float32)
    picture += np.float32(12) * (ridge[:, None, None] - np.float32(0.5))
    for side in (-1, 1):
        ear = half + int(0.34 * unit), half + int(side * 0.14 * unit)
        _blob(picture, ear, (max(1, int(0.06 * unit)), max(1, int(0.07 * unit))), (116, 120, 150), 0.8)
    ragged = shape.astype(np.float32) / 255 + 0.18 * fur * (cv2.GaussianBlur(shape, (0, 0), 2.5) > 8)
    return _sprite(picture, np.clip(cv2.GaussianBlur(np.clip(ragged, 0, 1), (0, 0), 1.3), 0, 1))


def person(rng: Random, tall: float, clothes: tuple[float, float, float], step: int = 0) -> Picture:
    """A sprite: somebody who walks, seen from the side, with a shadow at the feet; `step` 0 to 2 moves the legs."""
    height, width = int(1.1 * tall * _FINER), int(0.6 * tall * _FINER)
    unit, middle = tall * _FINER, width // 2
    picture = np.empty((height, width, 3), np.float32)
    picture[:] = clothes
    folds = cv2.resize(rng.standard_normal((height // 9 + 1, width // 4 + 1)).astype(np.float32), (width, height))
    picture += 10 * folds[:, :, None]
    picture[int(0.52 * unit) :] = np.array(_one(rng, [(70, 58, 50), (96, 90, 86), (44, 52, 74)]), np.float32)
    shape = np.zeros((height, width), np.uint8)
    cv2.ellipse(shape, (middle, int(0.36 * unit)), (int(0.13 * unit), int(0.2 * unit)), 0, 0, 360, 255, -1, cv2.LINE_AA)
    for side in (-1, 1):
        foot = middle + int(side * (0.03 + 0.06 * step) * unit), int(0.97 * unit)
        cv2.line(shape, (middle, int(0.5 * unit)), foot, 255, int(0.11 * unit), cv2.LINE_AA)
    cv2.circle(shape, (middle, int(0.1 * unit)), int(0.075 * unit), 255, -1, cv2.LINE_AA)
    picture[: int(0.17 * unit)] = _one(rng, [(128, 152, 196), (60, 84, 122), (42, 46, 58)])
    alpha = cv2.GaussianBlur(shape, (0, 0), 1.4).astype(np.float32) / 255
    floor = np.zeros((height, width), np.float32)
    cv2.ellipse(floor, (middle, int(0.97 * unit)), (int(0.2 * unit), int(0.06 * unit)), 0, 0, 360, 0.3, -1)
    below = cv2.GaussianBlur(floor, (0, 0), 2.0 * _FINER) * (1 - alpha)
    sprite = _sprite(picture, alpha)
    sprite[:, :, 3] += below
    return sprite


def shadow_of(sprite: Picture, depth: float, blur: float) -> Picture:
    """A sprite that darkens by `depth` below the other one."""
    alpha = depth * cv2.GaussianBlur(np.ascontiguousarray(sprite[:, :, 3]), (0, 0), blur * _FINER)
    return _sprite(np.zeros((*alpha.shape, 3), np.float32), alpha)


def cast(sprite: Picture, heading: float, depth: float) -> Picture:
    """A sprite: the long shadow, to the lower right, of an animal that looks into this direction."""
    side = sprite.shape[0]
    turn = cv2.getRotationMatrix2D((side / 2, side / 2), -math.degrees(heading), 1)
    alpha = cv2.warpAffine(np.ascontiguousarray(sprite[:, :, 3]), turn, (side, side))
    smear = np.zeros((2 * 9 * _FINER + 1, 2 * 11 * _FINER + 1), np.float32)
    cv2.line(smear, (0, 0), (smear.shape[1] - 1, smear.shape[0] - 1), 1.0, 1, cv2.LINE_AA)
    alpha = np.pad(alpha, 12 * _FINER)
    long = np.minimum(cv2.filter2D(alpha, -1, smear / (9 * _FINER), borderType=cv2.BORDER_CONSTANT), 1)
    long = depth * cv2.GaussianBlur(long, (0, 0), 1.2 * _FINER)
    return _sprite(np.zeros((*long.shape, 3), np.float32), long)


def paste(
    canvas: Picture, covered: Picture, sprite: Picture, at: tuple[float, float], heading: float = 0.0, size: float = 1.0
) -> None:
    """Draws the sprite around `at` and raises `covered` (H, W) to its alpha; places to a fraction of a pixel."""
    height, width = (0.5 * size * side / _FINER for side in sprite.shape[:2])
    if heading:
        height = width = min(height, width)  # nothing lies in the corners
    x0, y0 = max(0, math.floor(at[0] - width) - 1), max(0, math.floor(at[1] - height) - 1)
    x1, y1 = min(canvas.shape[1], math.ceil(at[0] + width) + 1), min(canvas.shape[0], math.ceil(at[1] + height) + 1)
    if x0 >= x1 or y0 >= y1:
        return
    turn = cv2.getRotationMatrix2D((sprite.shape[1] / 2, sprite.shape[0] / 2), -math.degrees(heading), size / _FINER)
    turn[0, 2] += at[0] - x0 - sprite.shape[1] / 2
    turn[1, 2] += at[1] - y0 - sprite.shape[0] / 2
    drawn = cv2.warpAffine(sprite, turn, (x1 - x0, y1 - y0), flags=cv2.INTER_LINEAR)
    part = canvas[y0:y1, x0:x1]
    part *= cv2.cvtColor(1 - drawn[:, :, 3], cv2.COLOR_GRAY2BGR)
    part += drawn[:, :, :3]
    np.maximum(covered[y0:y1, x0:x1], drawn[:, :, 3], out=covered[y0:y1, x0:x1])


def _clipped(place: Picture) -> Picture:
    """Far enough from black and white that noise is not cut off on one side, which would shift the mean."""
    clipped: Picture = np.clip(place, 12, 240).astype(np.float32)
    return clipped


def _sprite(picture: Picture, alpha: Picture) -> Picture:
    sprite: Picture = np.dstack([np.clip(picture, 8, 245) * alpha[:, :, None], alpha]).astype(np.float32)
    return sprite


def _board(place: Picture, corner: tuple[int, int, int, int], colour: tuple[int, int, int], rng: Random) -> None:
    """A flat thing (left, top, width, height) with grain and a dark edge."""
    left, top, width, height = corner
    part = place[top : top + height, left : left + width]
    grains = grain(rng, height, width, ((2, 3.0), (8, 4.0)))
    part[:] = np.array(colour, np.float32) + grains[:, :, None]
    part[[0, -1]] *= 0.6
    part[:, [0, -1]] *= 0.6
    below = place[top + height : top + height + 3, left : left + width]
    below *= 0.75


def _blob(
    place: Picture, at: tuple[int, int], axes: tuple[int, int], colour: tuple[int, int, int], opaque: float
) -> None:
    shape = np.zeros(place.shape[:2], np.uint8)
    cv2.ellipse(shape, at, axes, 0, 0, 360, 255, -1, cv2.LINE_AA)
    alpha = opaque * (cv2.GaussianBlur(shape, (0, 0), 0.8).astype(np.float32) / 255)[:, :, None]
    place *= 1 - alpha
    place += np.array(colour, np.float32) * alpha


def _one(rng: Random, choices: list[Choice]) -> Choice:
    return choices[int(rng.integers(len(choices)))]


def _whole(point: NDArray[np.float64]) -> tuple[int, int]:
    return round(float(point[0])), round(float(point[1]))
