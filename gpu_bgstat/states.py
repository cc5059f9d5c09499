"""The two states that a patch is in for longest: the empty place, and what sat there for a while.

    samples of a patch  aaaaaaaaaaabbbb.bbb.b.bb     a, b: nearly one thumbnail for a long time; . something passes

Which of the two is the empty place is not asked here; but a is the same throughout a region of neighbouring
patches: they are aligned by when they change.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from gpu_bgstat.coarse import EIGHTHS
from gpu_bgstat.still import Levels

_ALIKE = 4.0  # levels: thumbnails of one state differ by less, unless noise is strong
_STARTS = 12  # samples of a patch that are tried as centres of its states
_MOST = 160  # samples, at most, among which states are looked for; then all samples join them
_LEAST_SHARE = 0.03  # of the samples: what is there for less is no state
_LEAST = 3  # samples
_MOST_PATCHES = 0.5  # of all: where more have two states, something else than an animal has changed
_MEAN_DIFFERENCE = 1.128  # of two samples of noise, in standard deviations
Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class States:
    """Patches with two states.

    first, second  (T, PH, PW): the samples in each of them
    double         (PH, PW): where there are two; elsewhere, beside these, the samples are what the neighbours say
    beside         (PH, PW)
    """

    first: Flags
    second: Flags
    double: Flags
    beside: Flags


def two_states(levels: Levels) -> States | None:
    """None where no patch has two states, or too many have."""
    light = levels.light[:, None, None].round().astype(np.int16)
    thumbnails = [levels.thumbnails[..., c] - light[..., c] for c in range(light.shape[3])]  # each (T, PH, PW) int16
    quiet = levels.quiet_limit
    still = levels.motions <= 1.3 * quiet + 3  # a sleeping animal breathes
    alike = np.maximum(_ALIKE, quiet * (2.5 / EIGHTHS / _MEAN_DIFFERENCE) / 4).astype(np.int16)
    count, rows, columns = levels.motions.shape
    some = np.linspace(0, count - 1, min(count, _MOST)).round().astype(np.intp)
    least = max(_LEAST, int(np.ceil(_LEAST_SHARE * count)))
    middle = [np.median(plane[some], axis=0).astype(np.int16) for plane in thumbnails]
    other = (still & (_distance(thumbnails, middle) > alike)).sum(axis=0) >= least
    where = np.flatnonzero(other)
    if not len(where) or len(where) > _MOST_PATCHES * rows * columns:
        return None
    flat = [plane.reshape(count, -1)[:, where] for plane in thumbnails]
    quiet_ones = still.reshape(count, -1)[:, where]
    near = alike.reshape(-1)[where]
    first, free = _densest(flat, quiet_ones, near, some)
    second, _ = _densest(flat, free, near, some)
    found = np.flatnonzero((first.sum(axis=0) >= least) & (second.sum(axis=0) >= least))
    if not len(found):
        return None
    double = np.zeros(rows * columns, np.bool_)
    double[where[found]] = True
    double = double.reshape(rows, columns)
    a, b = (np.zeros((count, rows, columns), np.bool_) for _ in range(2))
    a[:, double], b[:, double] = first[:, found], second[:, found]
    swapped = _swapped(a, b, double)  # (PH, PW)
    a[:, swapped], b[:, swapped] = b[:, swapped], a[:, swapped]
    around: Flags = cv2.dilate(double.astype(np.uint8), np.ones((3, 3), np.uint8)).astype(np.bool_)
    _told_by_neighbours(a, b, double, around & ~double)
    beside = around & ~double & (a.sum(axis=0) >= _LEAST) & (b.sum(axis=0) >= _LEAST)
    return States(a, b, double, beside)


Planes = list[NDArray[np.int16]]  # one a channel: of thumbnails (T, P), of centres (P,)


def _densest(flat: Planes, free: Flags, alike: NDArray[np.int16], some: NDArray[np.intp]) -> tuple[Flags, Flags]:
    """Of each patch (T, P) the free samples (T, P) of the densest state, and those that are free then."""
    part, part_free = [plane[some] for plane in flat], free[some]
    amount = part_free.sum(axis=0)
    order = np.argsort(~part_free, axis=0, kind="stable")  # the free samples first
    best = np.zeros(len(alike), np.intp)
    centre = [plane[0].copy() for plane in part]
    for start in range(_STARTS):
        turn = np.maximum(amount - 1, 0) * start // (_STARTS - 1)
        sample = np.take_along_axis(order, turn[None], 0)
        tried = [np.take_along_axis(plane, sample, 0)[0] for plane in part]
        size = (part_free & (_distance(part, tried) <= alike)).sum(axis=0)
        better = size > best
        best[better] = size[better]
        for plane, given in zip(centre, tried, strict=True):
            plane[better] = given[better]
    for _ in range(2):
        members = part_free & (_distance(part, centre) <= alike)
        size = members.sum(axis=0)
        for number, plane in enumerate(part):
            total = np.where(members, plane, 0).sum(axis=0)
            mean = np.rint(total / np.maximum(size, 1)).astype(np.int16)
            centre[number] = np.where(size > 0, mean, centre[number])
    distance = _distance(flat, centre)
    return free & (distance <= alike + alike // 4), free & (distance > 2 * alike)


def _distance(flat: Planes, centre: Planes) -> NDArray[np.int16]:
    """(T, P): of thumbnails (T, P) from one for each patch (P,), in the channel that differs most."""
    distance: NDArray[np.int16] = np.abs(flat[0] - centre[0])
    for plane, middle in zip(flat[1:], centre[1:], strict=True):
        np.maximum(distance, np.abs(plane - middle), out=distance)
    return distance


def _swapped(first: Flags, second: Flags, double: Flags) -> Flags:
    """(PH, PW): the patches whose states must change places, so that each region has one order of them.

    From the patch that tells most on, always to the neighbour whose changes agree, or disagree, most clearly.
    """
    rows, columns = double.shape
    when = (first.astype(np.int8) - second.astype(np.int8)).reshape(len(first), -1).T.astype(np.int32)  # (P, T)
    _, regions = cv2.connectedComponents(double.astype(np.uint8), connectivity=8)
    weight = np.minimum(first.sum(axis=0), second.sum(axis=0))
    swapped = np.zeros(double.shape, np.bool_)
    done = ~double
    for region in range(1, int(regions.max()) + 1):
        seed = int(np.argmax(np.where(regions == region, weight, -1)))
        waiting = [(0, seed, 1)]
        while waiting:
            _, place, sign = heapq.heappop(waiting)
            row, column = divmod(place, columns)
            if done[row, column]:
                continue
            done[row, column], swapped[row, column] = True, sign < 0
            for y in range(max(0, row - 1), min(rows, row + 2)):
                for x in range(max(0, column - 1), min(columns, column + 2)):
                    if not done[y, x]:
                        agreement = sign * int(when[place] @ when[y * columns + x])
                        heapq.heappush(waiting, (-abs(agreement), y * columns + x, 1 if agreement >= 0 else -1))
    return swapped


def _told_by_neighbours(first: Flags, second: Flags, double: Flags, beside: Flags) -> None:
    """Patches that the edge of something just touches: in which state they are is what most neighbours say."""
    rows, columns = double.shape
    for row, column in np.argwhere(beside):
        around = np.s_[max(0, row - 1) : min(rows, row + 2), max(0, column - 1) : min(columns, column + 2)]
        told = double[around]
        for state in (first, second):  # (T, PH, PW)
            state[:, row, column] = 2 * state[(slice(None), *around)][:, told].sum(axis=1) > told.sum()
