"""report.json: all that a program or a colleague needs to know about how a background came about.

The same recording and settings give the same report on every machine, apart from what stands under `run`.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from typing import Any

import av
import cv2
import numpy as np

from gpu_bgstat.config import MEANS
from gpu_bgstat.frames import Background
from gpu_bgstat.version import __version__

CHOICES = ("own", "common", "rare")  # what a map of choices holds
PAGE = "report.html"  # shows what stands under `run`, so its sum stands there, too


def report(background: Background, sums: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The report as plain data. Times are seconds since the first frame, or null where the source has none.

    sums  the SHA-256 of the files beside it, by name
    """
    run, image, sums = background.run, background.background, sums or {}
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
            | ({"shift": sample.shift and list(sample.shift)} if background.config.shake else {})
            for sample in background.samples
        ],
        "shake": run.shake,
        "image": {
            "width": image.shape[1],
            "height": image.shape[0],
            "channels": 1 if image.ndim == 2 else image.shape[2],
            "bits": image.dtype.itemsize * 8,
        },
        "noise": {
            "variances": list(background.noise.variances),
            "thresholds": list(background.noise.thresholds),
            "tolerance": background.noise.tolerance,
            "width": background.noise.width,
        },
        "thresholds": list(background.thresholds),
        "stable_share": float(background.stable.mean()),
        "regimes": [
            {"regime": number, "samples": len(regime.samples), "share": len(regime.samples) / len(background.samples)}
            for number, regime in enumerate(background.regimes, 1)
        ],
        "choice": {name: round(float((background.choice == value).mean()), 6) for value, name in enumerate(CHOICES)},
        "confidence_mean": float(background.confidence.mean() / 255),
        "sample_bytes": run.sample_bytes,
        "warnings": list(run.warnings),
        "config": background.config.model_dump(mode="json", exclude=set(MEANS)),
        "files": {name: digest for name, digest in sums.items() if name != PAGE},
        "run": {
            "device": run.device,
            "config": background.config.model_dump(mode="json", include=set(MEANS)),
            "decoding": run.decoding,
            "notes": list(run.notes),
            "timings_s": {stage: round(seconds, 4) for stage, seconds in run.timings_s.items()},
            "versions": versions(),
            "files": {name: digest for name, digest in sums.items() if name == PAGE},
        },
    }


def report_json(background: Background, sums: Mapping[str, str] | None = None) -> bytes:
    """The report as JSON. Bytes of a file name that are no UTF-8 become \\udcXX, as in `os.fsdecode`."""
    text = json.dumps(report(background, sums), indent=2, ensure_ascii=False)
    return (text + "\n").encode(errors="backslashreplace")


def versions() -> dict[str, str]:
    """What computed this: our version and those of the libraries that touch pixels."""
    return {
        "gpu_bgstat": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "opencv": cv2.__version__,
        "av": av.__version__,
    }
