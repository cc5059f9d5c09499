"""The data that travels: frames and their shape, samples, statistics, and the background itself."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from gpu_bgstat.config import Config
from gpu_bgstat.errors import FrameError

Image = NDArray[Any]

# Of a frame: FFmpeg's own limit, and more than any camera has. A header that claims more is refused before anything is
# allocated for it.
MAX_PIXELS = 1 << 28
MAX_FRAMES = 1 << 40  # of a recording: three centuries at 100 a second


def check_size(width: int, height: int) -> None:
    """Raises FrameError if no frame has these sides, so that nothing is allocated for what a header just claims."""
    if min(width, height) < 1 or width * height > MAX_PIXELS:
        raise FrameError(
            f"{width}x{height} is no size of a frame: sides are 1 pixel or more, and {MAX_PIXELS:,} pixels "
            "(16384x16384) are the most"
        )


@dataclass(frozen=True)
class FrameSpec:
    """Size and type of a frame: (height, width) in grey, (height, width, 3) in colour (BGR)."""

    width: int
    height: int
    channels: int
    dtype: np.dtype[Any]

    def __post_init__(self) -> None:
        """Raises FrameError on what no sample can be; `dtype` may be given as `np.uint8`, too."""
        object.__setattr__(self, "dtype", np.dtype(self.dtype))
        check_size(self.width, self.height)
        if self.channels not in (1, 3) or self.dtype not in (np.uint8, np.uint16):
            raise FrameError(
                f"{self.channels} channels, {self.dtype}: a frame has 1 or 3 channels, and is uint8 or uint16"
            )

    @classmethod
    def of(cls, frame: Image) -> FrameSpec:
        """The spec of an array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4); raises FrameError on others.

        Alpha is dropped. Types other than uint8 and uint16 become uint8 by clipping, as in the cassette.
        """
        if not isinstance(frame, np.ndarray):
            raise FrameError(f"{type(frame).__name__} is no frame: give an array (H, W), or (H, W, 3) in BGR order")
        if frame.ndim not in (2, 3) or 0 in frame.shape or (frame.ndim == 3 and frame.shape[2] not in (1, 3, 4)):
            raise FrameError(f"shape {frame.shape} is no frame: give (H, W), or (H, W, 3) in BGR order")
        if frame.dtype.kind not in "uif":
            raise FrameError(f"type {frame.dtype} is no frame: give uint8 or uint16")
        channels = 1 if frame.ndim == 2 or frame.shape[2] == 1 else 3
        dtype = np.uint16 if frame.dtype.newbyteorder("=") == np.uint16 else np.uint8
        return cls(frame.shape[1], frame.shape[0], channels, np.dtype(dtype))

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.height, self.width) if self.channels == 1 else (self.height, self.width, self.channels)

    @property
    def values(self) -> int:
        """Values a frame: pixels times channels."""
        return self.height * self.width * self.channels

    @property
    def bytes(self) -> int:
        return self.values * self.dtype.itemsize

    def __str__(self) -> str:
        kind = "grey" if self.channels == 1 else "colour"
        return f"{self.width}x{self.height} {kind}, {self.dtype.itemsize * 8} bit"


@dataclass(frozen=True)
class Frame:
    """One frame on its way from a source: its index from 0, its time, and its pixels."""

    index: int
    time_s: float | None  # since the first frame; None where the source knows no times
    pixels: Image


@dataclass(frozen=True)
class Timeline:
    """How many frames a recording shows, and when: `times_s` has shape (frames,), or is None if unknown."""

    frames: int
    times_s: NDArray[np.float64] | None = None
    keyframes: NDArray[np.int64] | None = None  # numbers of the frames that need no other one; None: all of them


class Plan(Protocol):
    """Which frames a source should yield."""

    @property
    def indices(self) -> Sequence[int] | None:
        """All of them in order, or None where only asking frame by frame can tell."""

    @property
    def chosen(self) -> Sequence[int] | None:
        """These, and those that an interrupted reading has got already."""

    @property
    def any_order(self) -> bool:
        """Whether frames may come in another order than that of their indices."""

    def due(self, index: int, time_s: float | None) -> bool:
        """Whether this frame is a sample; asked once for each frame, in order.

        Of a plan without `indices`, live sources ask from their reading thread, and once more as they hand a frame on.
        """

    def over(self, index: int, time_s: float | None) -> bool:
        """Whether this frame and all later ones are beyond the range."""


@dataclass(frozen=True)
class Sample:
    """One sample of the estimate: where it comes from, and its mean grey level (over pixels and channels)."""

    index: int
    time_s: float | None
    brightness: float
    shift: tuple[int, int] | None = None  # pixels right and down of the first sample, undone; None: not registered


@dataclass(frozen=True)
class Run:
    """What happened on the way from the source to the background; all that the report tells beside pixels."""

    source: str = "frames from Python"
    container: dict[str, Any] = field(default_factory=dict)  # format, codec, size, rate: what the header says
    device: str = ""
    frames_seen: int = 0
    damaged: int = 0
    dropped: int = 0  # by a live source, because collecting was slower
    resized: int = 0
    sample_bytes: int = 0
    warnings: tuple[str, ...] = ()  # about the recording
    notes: tuple[str, ...] = ()  # about this machine: elsewhere, they may not hold
    decoding: dict[str, Any] = field(default_factory=dict)  # which way the frames were got, and why
    timings_s: dict[str, float] = field(default_factory=dict)  # stage -> seconds
    shake: dict[str, float | int] | None = None  # of registered samples: `largest_px`, and `unregistered` ones
    snapshot: bool = False  # taken while collecting went on: there will be more samples


@dataclass(frozen=True)
class Noise:
    """What the sensor alone does, for each channel (one in grey).

    variances   squared grey levels: of the noise, at the brightness where it is largest
    thresholds  squared grey levels: of the variances of T samples of noise alone, about one in 1,000 is larger
    """

    variances: tuple[float, ...]
    thresholds: tuple[float, ...]

    @property
    def sigma(self) -> float:
        """Grey levels: the standard deviation in the channel that has most."""
        return math.sqrt(max(self.variances))

    @property
    def tolerance(self) -> int:
        """Levels by which a sample may differ from the background and still agree with it: 3 sigma, at least 2."""
        return max(2, math.ceil(3 * self.sigma))

    @property
    def width(self) -> int:
        """Levels of the interval in which a mode is sought: 2 sigma to each side, at least 2, and the middle."""
        return 2 * max(2, math.ceil(2 * self.sigma)) + 1


@dataclass(frozen=True)
class Regime:
    """The empty arena in one light, from the samples that have it; its arrays are as those of `Background`."""

    background: Image
    variance: NDArray[np.float32]
    heatmap: NDArray[np.uint8]
    samples: tuple[Sample, ...]


@dataclass(frozen=True)
class Span:
    """A stretch of the recording in which one regime of light holds: frames [from_frame, to_frame).

    regime   from 1; 0 is none of them
    from_s   seconds since the first frame, or None where the source knows no times; `to_s` too
    samples  how many there are
    """

    regime: int
    from_frame: int
    to_frame: int
    from_s: float | None
    to_s: float | None
    samples: int


@dataclass(frozen=True)
class Background:
    """The empty arena, and how far to trust it.

    background  (H, W) or (H, W, 3) BGR, uint8 or uint16 as the samples
    variance    same shape, float32, in squared grey levels
    stable      (H, W) bool: no channel varies by more than its one of `thresholds`
    heatmap     (H, W) uint8: the variance, scaled by its 99th percentile
    confidence  (H, W) uint8: 255 times the share of the samples that agree with the background, in the worst channel
    noise       of the sensor alone, estimated from the variance
    thresholds  squared grey levels, one for each channel: `config.threshold`, or what `auto` found
    samples     in order of their index
    choice      (H, W) uint8: 0 where the method's own value is shown; `auto` may show the state that lasts longer, 1,
                or the other one, 2
    regimes     with light=regimes, the background in each light, the commonest first, whose background this is, too
    spans       with light=regimes, which of them holds when
    """

    background: Image
    variance: NDArray[np.float32]
    stable: NDArray[np.bool_]
    heatmap: NDArray[np.uint8]
    confidence: NDArray[np.uint8]
    noise: Noise
    thresholds: tuple[float, ...]
    samples: tuple[Sample, ...]
    config: Config
    run: Run
    choice: NDArray[np.uint8]
    regimes: tuple[Regime, ...] = ()
    spans: tuple[Span, ...] = ()

    def save(self, folder: str | Path) -> list[Path]:
        """Writes the pictures, the variance and the report into `folder`, all of them or none.

        Raises OutputError, with what stood there before untouched.
        """
        from gpu_bgstat.outputs import save  # the one arrow downwards: a convenience for users

        return save(self, Path(folder))


@dataclass(frozen=True)
class Window:
    """A stretch of the recording with a background of its own: frames [from_frame, to_frame).

    number   from 1
    from_s   seconds since the first frame, or None where the source knows no times; `to_s` too
    samples  how many there are; fewer than two make no background
    """

    number: int
    from_frame: int
    to_frame: int
    from_s: float | None
    to_s: float | None
    samples: int = 0

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"window_{self.number:04}"
