"""An independent oracle: plain NumPy in float64 over a full sequential decode. It shares no code with the package."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import tifffile
from av.video.reformatter import Interpolation

Array = np.ndarray[Any, np.dtype[Any]]


def decode(path: Path, every: int = 1) -> tuple[int, dict[int, Array]]:
    """How many frames FFmpeg shows, and every N-th of them, BGR, upright; packets that it refuses are passed over."""
    frames, seen = {}, 0
    with av.open(str(path)) as container:
        for packet in container.demux(video=0):
            try:
                pictures: Sequence[Any] = packet.decode()
            except av.error.InvalidDataError:
                continue
            for picture in pictures:
                seen += 1
                if seen % every:
                    continue
                deep = picture.format.components[0].bits > 8
                image = picture.to_ndarray(format="bgr48le" if deep else "bgr24", interpolation=Interpolation.BICUBIC)
                if deep:
                    image = ((image.astype(np.uint32) + 128) // 257).astype(np.uint8)
                frames[seen - 1] = np.rot90(image, picture.rotation // 90)
    return seen, frames


def read(path: Path, every: int) -> tuple[int, dict[int, Array]]:
    """How many frames a video, a folder of images named by number, or a TIFF stack has, and every N-th of them."""
    if path.is_dir():
        files = sorted(path.iterdir(), key=lambda file: int("".join(filter(str.isdigit, file.stem))))
        return len(files), {
            index: np.asarray(cv2.imread(str(file), cv2.IMREAD_UNCHANGED))
            for index, file in enumerate(files)
            if (index + 1) % every == 0
        }
    if path.suffix == ".tif":
        stack = tifffile.imread(path)
        stack = stack.astype(stack.dtype.newbyteorder("="))
        return len(stack), {index: stack[index] for index in range(every - 1, len(stack), every)}
    return decode(path, every)


def sampled(total: int, every: int, limit: int, keep: str) -> list[int]:
    """The indices that design.md asks for, by counting."""
    due = [index for index in range(total) if (index + 1) % every == 0]
    if keep == "recent" or len(due) <= limit:
        return due[-limit:]
    return [due[int(np.ceil((k + 1) * len(due) / limit)) - 1] for k in range(limit)]


def estimate(frames: Sequence[Array], *, gray: bool, threshold: Any, fill: str) -> dict[str, Array]:
    """The background of these samples, in float64, straight from the definitions."""
    if gray and frames[0].ndim == 3:
        frames = [cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_BGR2GRAY) for frame in frames]
    stack = np.stack(frames).astype(np.float64)
    count = len(stack)
    numerator = count * (stack**2).sum(axis=0) - stack.sum(axis=0) ** 2  # integers below 2**53: exact
    variance = (numerator / count**2).astype(np.float32)
    background = np.median(stack, axis=0).astype(frames[0].dtype)
    stable = variance <= threshold
    if stable.ndim == 3:
        stable = np.all(stable, axis=2)
    if fill == "global":
        for channel in range(background.shape[2] if background.ndim == 3 else 1):
            plane = background[:, :, channel] if background.ndim == 3 else background
            plane[~stable] = int(np.median(plane[stable] if stable.any() else plane))
    v = variance.astype(np.float64)
    v = v.mean(axis=2) if v.ndim == 3 else v
    top = np.percentile(v, 99)
    heatmap = np.clip(v / (top if top > 1e-8 else 1.0) * 255.0, 0, 255).astype(np.uint8)
    return {"background": background, "variance": variance, "stable": stable, "heatmap": heatmap}
