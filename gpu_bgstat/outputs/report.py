"""report.json: all that a program or a colleague needs to know about how a background came about."""

from __future__ import annotations

import json
import platform
from typing import Any

import av
import cv2
import numpy as np

from gpu_bgstat.frames import Background
from gpu_bgstat.version import __version__


def report(background: Background) -> dict[str, Any]:
    """The report as plain data. Times are seconds since the first frame, or null where the source has none."""
    run, image = background.run, background.background
    return {
        "source": run.source,
        "container": run.container,
        "snapshot": run.snapshot,
        "frames": {
            "seen": run.frames_seen,
            "sampled": len(background.samples),
            "damaged": run.damaged,
            "dropped": run.dropped,
        },
        "samples": [
            {"index": sample.index, "time_s": sample.time_s, "brightness": round(sample.brightness, 3)}
            for sample in background.samples
        ],
        "image": {
            "width": image.shape[1],
            "height": image.shape[0],
            "channels": 1 if image.ndim == 2 else image.shape[2],
            "bits": image.dtype.itemsize * 8,
        },
        "stable_share": float(background.stable.mean()),
        "sample_bytes": run.sample_bytes,
        "decoding": run.decoding,
        "device": run.device,
        "warnings": list(run.warnings),
        "timings_s": {stage: round(seconds, 4) for stage, seconds in run.timings_s.items()},
        "config": background.config.model_dump(mode="json"),
        "versions": versions(),
    }


def report_json(background: Background) -> bytes:
    """The report as JSON. Bytes of a file name that are no UTF-8 become \\udcXX, as in `os.fsdecode`."""
    return (json.dumps(report(background), indent=2, ensure_ascii=False) + "\n").encode(errors="backslashreplace")


def versions() -> dict[str, str]:
    """What computed this: our version and those of the libraries that touch pixels."""
    return {
        "gpu_bgstat": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "opencv": cv2.__version__,
        "av": av.__version__,
    }
