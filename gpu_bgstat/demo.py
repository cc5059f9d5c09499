"""The demonstration: film a synthetic arena, estimate its background, and hold it against the truth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path

import av.error
import cv2
import numpy as np

from gpu_bgstat.arena import Arena
from gpu_bgstat.config import Config
from gpu_bgstat.errors import OutputError
from gpu_bgstat.frames import Background, Image
from gpu_bgstat.outputs import save, writable
from gpu_bgstat.outputs.drafts import draft_of
from gpu_bgstat.outputs.pictures import colored, encode
from gpu_bgstat.pipeline import Progress, estimate
from gpu_bgstat.scores import score


def run_demo(folder: Path, seconds: int, on_progress: Callable[[Progress], None] | None = None) -> str:
    """Leaves arena.mp4, truth.png, demo.png and the estimate's outputs in `folder`; returns what to tell.

    Raises OutputError if the folder cannot be written to.
    """
    arena = Arena()
    count = seconds * arena.frames_per_s
    recording = folder / "arena.mp4"
    draft = draft_of(recording, ".mp4")
    with writable(folder):
        try:
            if recording.is_dir():
                raise OutputError(f"{recording} is a folder, where a file must be written: give another folder with -o")
            arena.film(draft, count)
            truth = arena.truth()
            background = estimate(draft, Config(every=max(1, count // 180)), on_progress)
            background = replace(background, run=replace(background.run, source=str(recording)))
            frame = next(islice(arena.frames(count), count - 1, None))
            others: dict[str, bytes | Path] = {
                "arena.mp4": draft,
                "truth.png": encode(".png", truth),
                "demo.png": encode(".png", panel(frame, background)),
            }
            save(background, folder, others)
        except (OSError, av.error.FFmpegError) as error:
            raise OutputError(
                f"{folder} cannot be written to ({error.strerror}): give another folder with -o"
            ) from error
        finally:
            draft.unlink(missing_ok=True)
    mean_error, wrong_share = error_against(background.background, truth)
    one_frame, one_wrong = error_against(frame, truth)
    return (
        f"{recording}: {count} frames, {arena.animals} animals, "
        f"{len(background.samples)} samples, {background.run.timings_s['total']:.2f} s\n"
        f"error against the true background: {mean_error:.2f} grey levels (AGE), "
        f"{100 * wrong_share:.2f} % of the pixels wrong by more than 20 (pEPs)\n"
        f"a single frame, for comparison:    {one_frame:.2f} grey levels, {100 * one_wrong:.2f} %\n"
        f"look at {folder / 'demo.png'} and {folder / 'report.html'}"
    )


def error_against(estimated: Image, truth: Image) -> tuple[float, float]:
    """AGE, the mean absolute error in grey levels, and pEPs, the share of pixels whose error exceeds 20."""
    scores = score(estimated, truth)
    return scores.age, scores.peps


def panel(frame: Image, background: Background) -> Image:
    """A frame, the background and the variance side by side, labelled."""
    pictures = {"a frame": frame, "the background": background.background, "the variance": colored(background.heatmap)}
    labelled = []
    for label, picture in pictures.items():
        strip = np.full((44, picture.shape[1], 3), 24, np.uint8)
        cv2.putText(strip, label, (14, 31), cv2.FONT_HERSHEY_SIMPLEX, 0.9, (235, 235, 235), 1, cv2.LINE_AA)
        labelled.append(np.vstack([strip, picture]))
    return np.hstack(labelled)
