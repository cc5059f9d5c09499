"""Config: every knob of an estimate, validated, with its unit; and the presets."""

from __future__ import annotations

import math
import operator
import os
import re
from fractions import Fraction
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from gpu_bgstat.errors import ConfigError

MEANS = ("decode", "decoders", "memory_limit", "scratch", "device")  # how; the result does not depend on them
MAX_SAMPLES_LIMIT = 65_535  # keeps T * sum(x**2) of 16-bit samples below 2**64 and counts within uint16

_CLOCK = re.compile(r"(?:(?P<h>\d{1,9}):)?(?P<m>[0-5]?\d):(?P<s>[0-5]?\d(?:\.\d+)?)$")
_MOST = 1 << 53  # of whole numbers: what every reader of JSON gets right
_MOST_VARIANCE = 3e38  # float32
_SHOWN = 80  # characters of a bad value
_DEVICE = re.compile(r"auto|cpu|gpu(:all|:\d{1,3}(,\d{1,3})*)?")
_FRAME_NUMBER = re.compile(r"(?P<n>\d{1,18})f$")
_UNIT = re.compile(r"(?P<number>\d{1,9}(?:\.\d{1,6})?)\s*(?P<unit>s|min|h)")
_SECONDS = {"s": 1.0, "min": 60.0, "h": 3600.0}
_SIZE = re.compile(r"(?P<number>\d{1,20}(?:\.\d{1,9})?)\s*(?:(?P<prefix>[kmgtKMGT])(?P<binary>i)?)?[bB]?")


def position(value: Any) -> float | str:
    """A place in a recording: 90 or "90.5" (seconds), "1:30" or "00:01:30.5", "2700f" (frame 2700, from 0).

    Seconds come back as a float, frame numbers as the string "2700f"; raises ValueError on anything else.
    """
    text = str(value).strip()
    if _FRAME_NUMBER.match(text):
        return text
    if clock := _CLOCK.match(text):
        return int(clock["h"] or 0) * 3600 + int(clock["m"]) * 60 + float(clock["s"])
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if isinstance(value, bool) or not 0 <= seconds < math.inf:
        raise ValueError("must be seconds (90.5), a clock time (HH:MM:SS) or a frame number (2700f)")
    return seconds


def window(value: Any) -> float | str:
    """A length of time: 600 or "600" or "600s" (seconds), "10min", "2h", "00:10:00"; or of frames: "1500f".

    Raises ValueError on anything else.
    """
    text = str(value).strip()
    unit = _UNIT.fullmatch(text)
    length = float(unit["number"]) * _SECONDS[unit["unit"]] if unit else position(value)
    if length in (0, "0f"):
        raise ValueError("must be longer than nothing")
    return length


def frame_number(place: float | str) -> int | None:
    """The frame number that a position names, or None if it is in seconds."""
    return int(place[:-1]) if isinstance(place, str) else None


def stretch(value: Any) -> tuple[float | str, float | str]:
    """A stretch of a recording, [begin, end): "10:00-10:45", "90-120", "2700f-2900f", or a pair of positions."""
    parts = value.split("-") if isinstance(value, str) else value
    if not isinstance(parts, tuple | list) or len(parts) != 2:
        raise ValueError(f"{value!r} is no stretch: give two places, such as 10:00-10:45, 90-120 or 2700f-2900f")
    begin, end = position(parts[0]), position(parts[1])
    kinds = {type(begin), type(end)}
    first, last = (frame_number(place) or 0 if kinds == {str} else place for place in (begin, end))
    if len(kinds) == 1 and float(first) >= float(last):
        raise ValueError(f"{begin}-{end} ends before it has begun: give the earlier place first")
    return begin, end


def _stretches(value: Any) -> Any:
    """Any number of stretches; a single one need not stand in a list."""
    one = isinstance(value, str)
    if isinstance(value, tuple | list) and len(value) == 2:
        one = not any(isinstance(part, tuple | list) or "-" in str(part) for part in value)
    if not one and not isinstance(value, tuple | list):
        raise ValueError("must be stretches such as 10:00-10:45")
    return tuple(stretch(part) for part in ([value] if one else value))


def _whole(value: Any) -> Any:
    """NumPy integers are whole numbers too; True is not."""
    if isinstance(value, bool):
        raise ValueError("must be a whole number")
    try:
        return operator.index(value)
    except TypeError:
        return value


def _rectangle(value: Any) -> Any:
    """Accepts "X,Y,W,H" beside a sequence of four numbers."""
    parts = tuple(part.strip() for part in value.split(",")) if isinstance(value, str) else value
    if isinstance(parts, tuple | list) and len(parts) != 4:
        raise ValueError("must be four numbers, X,Y,W,H")
    return parts


def _threshold(value: Any) -> Any:
    if value == "auto":
        return value
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not 0 <= number <= _MOST_VARIANCE:
        raise ValueError("must be 0 or more, or auto")
    return number


def _folder(value: Any) -> Any:
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def _device(value: Any) -> Any:
    if not isinstance(value, str) or not _DEVICE.fullmatch(value):
        raise ValueError("no such device")
    return value


def memory_size(value: Any) -> int:
    """Bytes: 4000000000, "4GB", "1.5 GB", "512MiB" (K, M, G and T stand for powers of 1000, with an i of 1024).

    Raises ValueError on anything else.
    """
    size = _SIZE.fullmatch(str(value).strip())
    if isinstance(value, bool | float) or size is None:
        raise ValueError("must be bytes, such as 4GB, 512MiB or 4000000000")
    base = 1024 if size["binary"] else 1000
    return int(Fraction(size["number"]) * base ** " kmgt".index((size["prefix"] or " ").lower()))


Position = Annotated[float | str, BeforeValidator(position)]
Window = Annotated[float | str, BeforeValidator(window)]
Stretches = Annotated[tuple[tuple[float | str, float | str], ...], BeforeValidator(_stretches)]
Pixels = Annotated[int, BeforeValidator(_whole), Field(ge=-_MOST, le=_MOST)]


class Config(BaseModel):
    """The settings of one estimate. Immutable; a bad value raises ConfigError with one line.

    The names are those of the command's options (`max_samples` is `--max-samples`).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    every: Annotated[int, BeforeValidator(_whole)] = Field(
        100, ge=1, le=_MOST, description="frames: the N-th, 2N-th, 3N-th … frame of the range is a sample"
    )
    max_samples: Annotated[int, BeforeValidator(_whole)] = Field(
        600, ge=2, le=MAX_SAMPLES_LIMIT, description="samples: at most this many are kept"
    )
    keep: Literal["recent", "spread"] = Field(
        "spread", description="which samples stay when there are more: the newest, or evenly spread ones"
    )
    snap: Literal["keyframe"] | None = Field(
        None, description="keyframe: each sample moves to the nearest keyframe, which is decoded by itself"
    )
    method: Literal["median", "still", "mode", "auto"] = Field(
        "auto",
        description="what a pixel's background is: the median of its samples, of those in which least moves, their "
        "densest value, or what the evidence is for",
    )
    lag_s: float = Field(
        0.2,
        gt=0,
        le=3600,
        allow_inf_nan=False,
        description="seconds between a sample and the frame that tells what moves in it (still and auto)",
    )
    light: Literal["off", "gain", "regimes"] = Field(
        "off",
        description="what is done about light that changes: nothing, each sample is brought to the light of most by a "
        "gain and an offset, or each light gets its own background",
    )
    threshold: Annotated[float | Literal["auto"], BeforeValidator(_threshold)] = Field(
        4.0,
        description="squared grey levels: a pixel is stable if no channel varies more (compared as float32); "
        "auto: of the sensor's own noise, one pixel in 1,000 varies more",
    )
    fill: Literal["median", "global", "mode", "inpaint"] = Field(
        "median",
        description="what is filled in: nothing (median); all unstable pixels, with the median of the others (global); "
        "those whose background hardly any sample shows, with their densest value (mode) or from around (inpaint)",
    )
    shake: bool = Field(
        False, description="move each sample, by whole pixels, to where the first one was: for a camera that shakes"
    )
    gray: bool = Field(False, description="estimate in grey (COLOR_BGR2GRAY) instead of in colour")
    depth: Literal[8, 16] | None = Field(
        None, description="bits a sample; default: 8 for video, the array's own for images and stacks"
    )
    roi: Annotated[tuple[Pixels, Pixels, Pixels, Pixels], BeforeValidator(_rectangle)] | None = Field(
        None, description="pixels X,Y,W,H: only this part of the frame, which must contain it"
    )
    start: Position | None = Field(
        None, description="seconds, HH:MM:SS, or a frame number such as 2700f: the first frame of the range"
    )
    end: Position | None = Field(
        None, description="seconds, HH:MM:SS, or a frame number such as 2700f: the first frame left out"
    )
    duration: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="seconds from the start of the range; live sources need it"
    )
    every_window: Window | None = Field(
        None,
        description="seconds, 10min, 2h, HH:MM:SS, or frames such as 1500f: a background for each window of this "
        "length, from the start of the range on",
    )
    reconnect: float | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        description="seconds: a live stream that drops out is opened again, until nothing came for so long",
    )
    exclude: Stretches = Field(
        (), description="stretches BEGIN-END, places as for start; no frame from BEGIN up to END is a sample"
    )
    decode: Literal["auto", "cpu", "nvdec"] = Field(
        "auto", description="what decodes video: auto and cpu the CPU, nvdec an NVIDIA GPU's decoder (or fail)"
    )
    decoders: Annotated[int, BeforeValidator(_whole)] | None = Field(
        None,
        ge=1,
        le=256,
        description="how many decoders work beside each other; default: one a core, as memory allows",
    )
    memory_limit: Annotated[int, BeforeValidator(memory_size)] | None = Field(
        None,
        ge=1,
        description="bytes, such as 4GB or 512MiB: memory that the process may take; samples that do not fit go into a "
        "scratch file; default: three quarters of what is free",
    )
    scratch: Annotated[str, BeforeValidator(_folder)] | None = Field(
        None, description="folder for the scratch file; default: the system's for temporary files, if it is on a disk"
    )
    device: Annotated[str, BeforeValidator(_device)] = Field(
        "auto",
        description="where to compute: auto (a GPU if there is one), cpu, gpu (or fail), gpu:0, gpu:0,1 or gpu:all",
    )

    def __init__(self, **settings: Any) -> None:
        try:
            super().__init__(**settings)
        except ValidationError as error:
            raise ConfigError(_one_line(error)) from None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.roi is not None:
            x, y, width, height = self.roi
            if min(x, y) < 0 or min(width, height) < 1:
                raise ValueError(f"roi={x},{y},{width},{height} is no rectangle: X,Y from 0, W,H from 1")
        if self.light == "regimes" and "mode" in (self.method, self.fill):
            raise ValueError("light=regimes goes with neither method=mode nor fill=mode: take another one")
        if self.end is not None and self.duration is not None:
            raise ValueError("end and duration exclude each other: give one of them")
        if isinstance(self.start, str) and self.duration is not None:
            raise ValueError(f"duration is in seconds, start={self.start} is a frame number: use end instead")
        start, end = self.start, self.end
        if isinstance(start, str) and isinstance(end, str):
            empty = int(start[:-1]) >= int(end[:-1])
        else:
            empty = isinstance(end, float) and isinstance(start, float | None) and (start or 0.0) >= end
        if empty:
            raise ValueError(f"end={end} is not after start={start or 0}")
        return self

    @classmethod
    def preset(cls, name: str, **overrides: Any) -> Config:
        """The preset of that name with some settings overridden."""
        if name not in PRESETS:
            raise ConfigError(f"preset={name!r} is unknown: use one of {', '.join(PRESETS)}")
        return cls(**{**PRESETS[name], **overrides})

    @classmethod
    def from_json(cls, text: str) -> Config:
        """The inverse of `to_json`; raises ConfigError on broken JSON and on bad values."""
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise ConfigError(_one_line(error)) from None

    def to_json(self) -> str:
        return self.model_dump_json()


# The cassette that this project grew from, as it documents itself, and what a user wants.
PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    "cassette": {
        "every": 100,
        "max_samples": 600,
        "keep": "recent",
        "method": "median",
        "threshold": 4.0,
        "fill": "global",
        "gray": False,
    },
}


def _short(value: Any) -> str:
    """A value as it may stand in a message: one line of bounded length."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # more digits than Python prints
        text = f"a huge {type(value).__name__}"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _one_line(error: ValidationError) -> str:
    """All complaints in one line: `every=0: Input should be greater than or equal to 1`."""
    parts = []
    for item in error.errors(include_url=False):
        message = item["msg"].removeprefix("Value error, ")
        if item["type"] == "extra_forbidden":
            message = "no such setting"
        name = str(item["loc"][0]) if item["loc"] else ""
        known = Config.model_fields.get(name)
        unit = f" ({known.description})" if known else ""
        parts.append(
            f"{name if name.isidentifier() else _short(name)}={_short(item['input'])}: {message}{unit}"
            if name
            else message
        )
    return "; ".join(dict.fromkeys(parts))
