"""What the samples are made into where light changes: one part in a common light, or a part for each regime of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from gpu_bgstat.backends import cpu
from gpu_bgstat.backends.backend import Light
from gpu_bgstat.coarse import Coarse
from gpu_bgstat.config import Config
from gpu_bgstat.frames import Image, Sample, Span
from gpu_bgstat.light import gain
from gpu_bgstat.light.regimes import regimes, stretches
from gpu_bgstat.neighbours import BY_MOTION
from gpu_bgstat.oddities import runs, words_of
from gpu_bgstat.ring import Part, Ring

_LEAST = 2  # samples that a background needs
_TOGETHER = 64  # thumbnails that are widened at once


@dataclass(frozen=True)
class Parted:
    """The parts that a background each is made of, the main one first, and what is to be told.

    parts    with what is coarse about their samples
    some     places of the samples of each part
    spans    which regime holds when; empty if nobody asked
    """

    parts: list[tuple[Part, Coarse | None]]
    some: list[Sequence[int]]
    spans: tuple[Span, ...] = ()
    warnings: tuple[str, ...] = ()


def needs_thumbnails(config: Config) -> bool:
    """Whether what is coarse about the samples must be remembered."""
    return config.light != "off" or config.method in BY_MOTION


def parted(ring: Ring, coarse: Coarse | None, config: Config) -> Parted:
    """The samples of a ring, as `config.light` wants them; `coarse` is of these, in order."""
    if coarse is None or config.light == "off":
        return Parted([(Part(ring), coarse)], [range(len(ring))])
    if config.light == "gain":
        return _matched(ring, coarse)
    return _divided(ring, coarse)


def _matched(ring: Ring, coarse: Coarse) -> Parted:
    match = gain.match(coarse.thumbnails, gain.reference(coarse.thumbnails))
    light, lit = match.light, in_light(coarse, match.light)
    left_out = _told(ring.samples, ~match.matched)
    if not left_out:
        return Parted([(Part(ring, light), lit)], [range(len(ring))])
    found = np.flatnonzero(match.matched)
    if len(found) < _LEAST:
        told = f"light=gain leaves all samples as they are: {left_out} cannot be matched to the light of the others"
        return Parted([(Part(ring), coarse)], [range(len(ring))], warnings=(told,))
    told = f"light=gain leaves out {left_out}: not to be matched to the light of the others"
    return Parted([(Part(ring, light, found.tolist()), _some(lit, found))], [found.tolist()], warnings=(told,))


def _divided(ring: Ring, coarse: Coarse) -> Parted:
    labels = regimes(coarse.thumbnails)
    places = [np.flatnonzero(labels == number) for number in range(1, int(labels.max()) + 1)]
    parts: list[tuple[Part, Coarse | None]] = [
        (Part(ring, some=some.tolist()) if len(some) < len(ring) else Part(ring), _some(coarse, some))
        for some in places
    ]
    left_out = _told(ring.samples, labels == 0)
    told = (f"light=regimes leaves out {left_out}: in the light of no regime",) if left_out else ()
    spans = _spans(ring.samples, labels)
    return Parted(parts, [some.tolist() for some in places], spans, told)


def _spans(samples: Sequence[Sample], labels: NDArray[np.int64]) -> tuple[Span, ...]:
    """In order of time. Between two samples of different regimes, the middle is the border."""
    found = stretches(labels)
    spans: list[Span] = []
    for number, stretch in enumerate(found):
        first, last = samples[stretch.first], samples[stretch.last]
        from_frame, from_s = first.index, first.time_s
        if spans:
            from_frame, from_s = spans[-1].to_frame, spans[-1].to_s
        to_frame, to_s = last.index + 1, last.time_s
        if number + 1 < len(found):
            behind = samples[stretch.last + 1]
            to_frame = (last.index + behind.index + 1) // 2
            if last.time_s is not None and behind.time_s is not None:
                to_s = (last.time_s + behind.time_s) / 2
        spans.append(Span(stretch.regime, from_frame, to_frame, from_s, to_s, stretch.last - stretch.first + 1))
    return tuple(spans)


def _told(samples: Sequence[Sample], which: NDArray[np.bool_]) -> str:
    """How many samples these are, and where they lie; empty if there are none."""
    flags = [bool(flag) for flag in which]
    where = words_of(samples)
    count = "1 sample" if sum(flags) == 1 else f"{sum(flags)} samples"
    return f"{count} ({where(runs(flags))})" if any(flags) else ""


def _some(coarse: Coarse, which: NDArray[np.int64]) -> Coarse:
    if len(which) == len(coarse.thumbnails):
        return coarse
    return replace(
        coarse, thumbnails=coarse.thumbnails[which], motions=coarse.motions[which], known=coarse.known[which]
    )


def in_light(coarse: Coarse, light: Light) -> Coarse:
    """What is coarse about the samples, in the light that these are brought to."""
    thumbnails, motions = np.empty_like(coarse.thumbnails), np.empty_like(coarse.motions)
    mean = light.gains.mean(axis=1, keepdims=True)
    for first in range(0, len(thumbnails), _TOGETHER):
        some = slice(first, first + _TOGETHER)
        thumbnails[some] = cpu.lit(coarse.thumbnails[some], Light(light.gains[some], light.offsets[some]))
        scale = Light(np.rint(mean[some]).astype(np.int64), np.full_like(light.offsets[some, :1], 1 << 15))
        motions[some] = _unless_unknown(coarse.motions[some], cpu.lit(coarse.motions[some], scale))
    return replace(coarse, thumbnails=thumbnails, motions=motions)


def _unless_unknown(motions: Image, scaled: Image) -> Image:
    top = np.iinfo(motions.dtype).max
    return np.where(motions == top, motions, scaled)
