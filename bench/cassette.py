"""The cassette `extract_background` as it was published (TractorLive, Pranav Minasandra), its functions in one loop.

Its test `var.ndim == 3` is the wrong way round: in colour it fills no pixel and writes a heat map of three channels.
It stays as it is, since it is what people run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np

EVERY = 100
MAX_SAMPLES = 600
THRESHOLD = 4.0


def run(recording: Path, folder: Path, every: int = EVERY) -> None:
    """Setup, collect for every frame, finalize: background_est.png and background_var.png in the folder."""
    samples: list[Any] = []
    count = 0
    video = cv2.VideoCapture(str(recording))
    while (got := video.read())[0]:
        frame = got[1]
        count += 1
        if count % every != 0:
            continue
        sample = frame.copy()
        if sample.shape != (samples[0].shape if samples else sample.shape):
            sample = cv2.resize(sample, (samples[0].shape[1], samples[0].shape[0]))
        if sample.dtype != np.uint8:
            sample = np.clip(sample, 0, 255).astype(np.uint8)
        samples.append(sample)
        if len(samples) > MAX_SAMPLES:
            samples = samples[-MAX_SAMPLES:]
    video.release()
    if len(samples) >= 2:
        _finalize(samples, folder)


def _finalize(samples: list[Any], folder: Path) -> None:
    stack = np.stack(samples, axis=0).astype(np.float32)
    var = np.var(stack, axis=0)
    med = np.median(stack, axis=0)
    if var.ndim == 3:
        stable = var <= THRESHOLD
        bg_out = np.clip(med, 0, 255).astype(np.uint8)
        v = var
    else:
        stable = np.all(var <= THRESHOLD, axis=2)
        bg_out = np.clip(med, 0, 255).astype(np.uint8)
        v = np.mean(var, axis=2)
    if stable.ndim == 2 and bg_out.ndim == 2:
        fallback = np.median(bg_out[stable]) if np.any(stable) else np.median(bg_out)
        bg_out[~stable] = np.uint8(np.clip(fallback, 0, 255))
    elif stable.ndim == 2 and bg_out.ndim == 3:
        for c in range(3):
            ch = bg_out[:, :, c]
            fallback = np.median(ch[stable]) if np.any(stable) else np.median(ch)
            ch[~stable] = np.uint8(np.clip(fallback, 0, 255))
            bg_out[:, :, c] = ch
    cv2.imwrite(str(folder / "background_est.png"), bg_out)
    vmax = float(np.percentile(v, 99.0)) if v.size else 1.0
    vmax = vmax if vmax > 1e-8 else 1.0
    var8 = np.clip((v / vmax) * 255.0, 0, 255).astype(np.uint8)
    cv2.imwrite(str(folder / "background_var.png"), var8)
