"""What an estimate would do, told before it is done: samples, memory and device, without decoding."""

from __future__ import annotations

from contextlib import closing
from dataclasses import asdict, dataclass
from typing import Any

from gpu_bgstat import backends, schedule
from gpu_bgstat.backends.memory import free_host_bytes
from gpu_bgstat.config import Config
from gpu_bgstat.conform import Conformer
from gpu_bgstat.estimator import room_for
from gpu_bgstat.sources import SourceLike, open_source


@dataclass(frozen=True)
class Forecast:
    """The plan of an estimate. None where only reading the source can tell."""

    source: str
    frames: int | None  # that the source promises
    samples: int | None  # that would be taken; without a known length, at most `slots`
    slots: int
    first: int | None  # frame number of the first and the last sample
    last: int | None
    last_s: float | None
    sample_spec: str | None
    sample_bytes: int | None  # of the full ring
    free_bytes: int | None
    way: str | None  # to the samples
    device: str
    samples_lie: str | None  # where on the device

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        if self.samples is None:
            samples = f"at most {self.slots} (the length is not known before the end)"
        elif not self.samples:
            samples = "0: too few for a background"
        else:
            seconds = "" if self.last_s is None else f" ({self.last_s:.1f} s)"
            samples = f"{self.samples}, from frame {self.first} to frame {self.last}{seconds}"
            samples += ": too few for a background" if self.samples < 2 else ""
        memory = "known after the first frame"
        if self.sample_bytes is not None:
            free = "" if self.free_bytes is None else f"; {self.free_bytes / 1e9:.1f} GB are free"
            memory = f"{self.sample_bytes / 1e6:.1f} MB of samples ({self.sample_spec}){free}"
        frames = "unknown" if self.frames is None else str(self.frames)
        rows = {"source": self.source, "frames": frames, "samples": samples, "memory": memory, "device": self.device}
        if self.way is not None:
            rows["decoding"] = self.way
        if self.samples_lie is not None:
            rows["place"] = self.samples_lie
        return "\n".join(f"{name:8} {text}" for name, text in rows.items())


def forecast(source: SourceLike, config: Config) -> Forecast:
    """The plan for this source; raises what `estimate` would raise before its first frame."""
    backend = backends.select(config.device)
    with closing(open_source(source, config)) as recording:
        recording.check(config)
        timeline = recording.timeline
        plan = schedule.plan(timeline, config)
        indices = plan.samples
        slots = config.max_samples if indices is None else len(indices)
        times = timeline.times_s if timeline else None
        spec = Conformer(recording.spec, config).spec if recording.spec else None
        return Forecast(
            source=recording.name,
            frames=timeline.frames if timeline else None,
            samples=None if indices is None else len(indices),
            slots=slots,
            first=indices[0] if indices else None,
            last=indices[-1] if indices else None,
            last_s=float(times[indices[-1]]) if indices and times is not None else None,
            sample_spec=str(spec) if spec else None,
            sample_bytes=slots * spec.bytes if spec else None,
            free_bytes=free_host_bytes(),
            way=recording.way(plan),
            device=backend.why,
            samples_lie=backend.forecast(max(1, slots), spec, room_for(spec, config, max(1, slots))) if spec else None,
        )
