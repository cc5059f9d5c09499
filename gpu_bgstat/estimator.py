"""BackgroundEstimator: setup, collect, finalize. The heart; `pipeline` feeds it from a source."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Self

import cv2

from gpu_bgstat import backends
from gpu_bgstat.backends.room import Room, default_limit, results_bytes
from gpu_bgstat.backends.tiles import cores
from gpu_bgstat.by_light import needs_thumbnails, parted
from gpu_bgstat.coarse import CoarseView, coarse_bytes
from gpu_bgstat.config import Config
from gpu_bgstat.conform import Conformer
from gpu_bgstat.errors import BgstatError, TooFewSamplesError
from gpu_bgstat.finalize import finalize
from gpu_bgstat.frames import Background, Frame, FrameSpec, Image, Regime, Run, Sample
from gpu_bgstat.light.regimes import MOST as MOST_REGIMES
from gpu_bgstat.methods import METHODS
from gpu_bgstat.oddities import Look, Watch
from gpu_bgstat.ring import Ring
from gpu_bgstat.schedule import Planned, Running
from gpu_bgstat.shake import Stand, account, told

_LOG = logging.getLogger("gpu_bgstat")


class BackgroundEstimator:
    """Collects samples of a fixed camera's frames, and reduces them to a background at any time.

        with BackgroundEstimator(Config(every=10)) as estimator:
            for frame in frames:            # (H, W) or (H, W, 3) BGR
                estimator.collect(frame)
            background = estimator.finalize()

    Nothing is allocated, and no device is touched, before `setup` or the first sample.
    """

    def __init__(
        self, config: Config | None = None, *, plan: Planned | Running | None = None, kept: FileIO | None = None
    ) -> None:
        """`plan` replaces the schedule that `config` describes, where the recording's length is known.

        kept  an open file that the samples go into, to outlive the process (see `checkpoint`)
        """
        self.config = config or Config()
        self.warnings: list[str] = []
        self.notes: list[str] = []
        self._plan = plan or Running(self.config)
        self._conform: Conformer | None = None
        self._ring: Ring | None = None
        self._kept = kept
        self._watch = Watch()
        self._coarse: CoarseView | None = None
        self._stand: Stand | None = None
        self._closed = False
        self._seen = 0
        self.frame_spec: FrameSpec | None = None  # of the recording's frames; known with the first one

    def setup(self, spec: FrameSpec) -> None:
        """Selects the device and allocates the ring for frames of this spec; `add` does it with its first frame.

        Raises ConfigError if the region of interest does not fit or memory_limit is too little, DeviceError or
        ScratchError if there is no room for the samples.
        """
        self._check_open()
        if self._ring is not None:
            raise BgstatError("setup was called before: one estimator is for one recording")
        self.frame_spec = spec
        conform = Conformer(spec, self.config)
        backend = backends.select(self.config.device)
        _LOG.info("device: %s", backend.why)
        slots = self.config.max_samples
        if isinstance(self._plan, Planned):
            slots = max(1, len(self._plan.samples))
        self._conform = conform
        self._watch = Watch(slots)
        if needs_thumbnails(self.config):
            self._coarse = CoarseView(conform.spec, slots, self._plan.between, self.config.decoders or cores())
        self._stand = Stand(conform.spec) if self.config.shake else None
        self._ring = Ring(backend, slots, conform.spec, room_for(conform.spec, self.config, slots, self._kept))

    def _check_open(self) -> None:
        if self._closed:
            raise BgstatError("the estimator was closed and its samples are gone: make a new one")

    def collect(self, frame: Image, index: int | None = None, time_s: float | None = None) -> bool:
        """Shows a frame to the schedule, which may take it as a sample; returns whether it did.

        index    its place in the recording, from 0; by default the place after the last one
        time_s   seconds since the first frame; needed only if the range is given in seconds

        Raises FrameError if a frame that is due is no frame; the samples so far are safe.
        """
        index = self._seen if index is None else index
        self._seen = max(self._seen, index + 1)
        if not self._plan.due(index, time_s):
            return False
        return self.add(Frame(index, time_s, frame))

    def add(self, frame: Frame) -> bool:
        """Takes a frame that is due; returns whether it is a sample.

        It is none if it only tells what moves in another one, or if thinning to make room for it made it undue.
        """
        if self._ring is None or self._conform is None:
            self.setup(FrameSpec.of(frame.pixels))
        assert self._ring is not None and self._conform is not None
        resized = self._conform.resized
        pixels = self._conform(frame.pixels)
        sampled, shift = self._plan.is_sample(frame.index), None
        if self._stand is not None:
            if not self._stand.begun and not sampled:
                self._stand.early.append((frame.index, pixels.copy()))  # the caller may reuse it
                return False
            if not self._stand.begun:
                self._begin(self._stand, pixels)
            pixels, shift = self._stand(pixels)
        if not sampled:
            self._beside(frame.index, pixels)
            return False
        if self._ring.full and isinstance(self._plan, Running) and self.config.keep == "spread":
            self._plan.double()
            self._ring.thin(self._plan.survives)
            self._watch.keep(self._ring.samples)
            if self._coarse is not None:
                self._coarse.keep(self._ring.samples)
            if not self._plan.survives(frame.index):
                return False
        brightness = sum(cv2.sumElems(pixels)) / pixels.size
        self._watch.see(frame.index, pixels, self._conform.resized > resized)
        if self._coarse is not None:
            self._coarse.see(frame.index, pixels, self._plan.pairs(frame.index), sampled=True)
        if dropped := self._ring.add(pixels, Sample(frame.index, frame.time_s, brightness, shift)):
            self._watch.forget(dropped.index)
            if self._coarse is not None:
                self._coarse.forget(dropped.index)
        return True

    def _begin(self, stand: Stand, first: Image) -> None:
        """The first sample has come: it is where all others are moved to, and the frames that waited are treated."""
        stand.begin(first)
        while stand.early:
            index, pixels = stand.early.pop(0)
            self._beside(index, stand(pixels)[0])

    def _beside(self, index: int, pixels: Image) -> None:
        """Takes a frame that only tells what moves in another one."""
        if self._coarse is not None:
            self._coarse.see(index, pixels, self._plan.pairs(index), sampled=False)

    def recall(
        self,
        spec: FrameSpec,
        samples: Sequence[Sample],
        looks: Iterable[Look],
        coarse: Iterable[str | None],
        clipped: Iterable[str],
    ) -> None:
        """Takes the samples that lie in the kept file already, in order of their slots, for frames of this spec.

        looks, coarse  of the samples, in the same order

        Raises FrameError if what is coarse is of something else.
        """
        self.setup(spec)
        assert self._ring is not None and self._conform is not None
        self._ring.recall(samples)
        first = next((slot for slot, sample in enumerate(samples) if sample.shift is not None), None)
        if self._stand is not None and first is not None:
            self._stand.begin(self._ring.at(first))  # samples come in order
        for sample, look, text in zip(samples, looks, coarse, strict=True):
            self._watch.recall(sample.index, look)
            if self._coarse is not None:
                self._coarse.recall(sample.index, text or "")
        self._conform.clipped.update(clipped)

    def sync(self) -> None:
        """Returns when the samples in a file are on its disk."""
        if self._ring is not None:
            self._ring.sync()

    @property
    def slots(self) -> tuple[Sample, ...]:
        """The samples in order of their slots."""
        return self._ring.slots if self._ring else ()

    def look(self, sample: Sample) -> Look:
        """What is remembered of a sample that is kept."""
        return self._watch.look(sample.index)

    def coarse(self, sample: Sample) -> str | None:
        """What is coarse about a sample that is kept, for a journal."""
        return self._coarse.to_text(sample.index) if self._coarse is not None else None

    @property
    def awaiting(self) -> set[int]:
        """Samples whose neighbour has not come yet."""
        without = self._coarse.awaited() if self._coarse is not None else set()
        return {index for index in without if any(sample == index for sample, _ in self._plan.pairs(index))}

    def with_neighbours(self, frames: set[int]) -> set[int]:
        """These frames, and the samples that have one of them for a neighbour."""
        return frames.union(sample for frame in frames for sample, _ in self._plan.pairs(frame))

    @property
    def clipped(self) -> set[str]:
        """Types of frames that had to be clipped."""
        return self._conform.clipped if self._conform else set()

    @property
    def kept(self) -> int:
        """How many samples there are now."""
        return len(self._ring) if self._ring else 0

    def finalize(self) -> Background:
        """The background of the samples so far; collecting may go on afterwards.

        Raises TooFewSamplesError if there are fewer than two.
        """
        self._check_open()
        count = self.kept
        if self._ring is None or self._conform is None or count < 2:
            snap = ", or leave snap out" if self.config.snap else ""
            raise TooFewSamplesError(
                f"a background needs at least 2 samples, and there {'is' if count == 1 else 'are'} {count}: "
                f"lower every={self.config.every}, or widen the range{snap}"
            )
        started = time.perf_counter()
        coarse = self._coarse.of(self._ring.samples) if self._coarse is not None else None
        by_light, method = parted(self._ring, coarse, self.config), METHODS[self.config.method]
        founds = [method(*part) for part in by_light.parts]
        reduced_at = time.perf_counter()
        finals = [
            finalize(found.background, found.variance, self.config, part, found.choice)
            for found, (part, _) in zip(founds, by_light.parts, strict=True)
        ]
        timings = {"reduce": reduced_at - started, "finalize": time.perf_counter() - reduced_at}
        samples = self._ring.samples
        regimes: tuple[Regime, ...] = ()
        if by_light.spans:
            regimes = tuple(
                Regime(final.background, final.variance, final.heatmap, tuple(samples[place] for place in some))
                for final, some in zip(finals, by_light.some, strict=True)
            )
        run = Run(
            device=self._ring.device,
            frames_seen=self._seen,
            resized=self._watch.resized(self._ring.samples),
            sample_bytes=count * self._conform.spec.bytes,
            warnings=(*self.warnings, *self._oddities(), *by_light.warnings),
            notes=tuple(self.notes),
            timings_s=timings,
            shake=account(self._ring.samples) if self.config.shake else None,
        )
        return Background(
            **vars(finals[0]),
            samples=samples,
            config=self.config,
            run=run,
            choice=founds[0].choice,
            regimes=regimes,
            spans=by_light.spans,
        )

    def _oddities(self) -> list[str]:
        assert self._conform is not None and self._ring is not None
        dtype = self._conform.spec.dtype
        notes = [
            f"frames of type {name} were clipped to the range of {dtype} and truncated"
            for name in sorted(self._conform.clipped)
        ]
        shaken = told(self._ring.samples) if self.config.shake else []
        return [*notes, *self._watch.told(self._ring.samples), *shaken]

    def close(self) -> None:
        """Gives the ring's memory back; the estimator cannot be used afterwards, and says so."""
        if self._ring is not None:
            self._ring.close()
        self._ring = self._conform = None
        self._closed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def room_for(spec: FrameSpec, config: Config, slots: int, kept: FileIO | None = None) -> Room:
    """What the host may give to a ring of `slots` samples of this spec; ConfigError if memory_limit is too little."""
    folder = Path(config.scratch) if config.scratch else None
    more = MOST_REGIMES - 1 if config.light == "regimes" else 0
    besides = more * results_bytes(spec) + (coarse_bytes(spec, slots) if needs_thumbnails(config) else 0)
    return Room.within(default_limit(config.memory_limit), spec, folder, kept, besides)
