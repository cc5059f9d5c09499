"""The pictures: PNG without loss, 8 or 16 bit; and small previews for the page."""

from __future__ import annotations

import cv2
import numpy as np

from gpu_bgstat.errors import OutputError
from gpu_bgstat.frames import Background, Image


def background_png(background: Background) -> bytes:
    """The background itself; 16 bit if the samples were."""
    return encode(".png", background.background)


def heatmap_png(background: Background) -> bytes:
    """The variance as 8-bit grey: white is where most moved."""
    return encode(".png", background.heatmap)


def stable_png(background: Background) -> bytes:
    """255 where stable, 0 elsewhere."""
    return encode(".png", background.stable.astype(np.uint8) * 255)


def confidence_png(background: Background) -> bytes:
    """8-bit grey: white where all samples agree with the background."""
    return encode(".png", background.confidence)


def choice_png(background: Background) -> bytes:
    """8-bit grey: 0 where the method's own median is shown, 127 the commoner of two states, 255 the rarer one."""
    return encode(".png", (background.choice.astype(np.uint16) * 255 // 2).astype(np.uint8))


def preview(image: Image, side: int = 1280) -> Image:
    """8 bit, no side longer than `side` pixels; 16-bit images are stretched from their darkest to brightest value."""
    if image.dtype == np.uint16:
        image = cv2.normalize(image, np.empty_like(image), 0, 255, cv2.NORM_MINMAX).astype(np.uint8)
    scale = side / max(image.shape[:2])
    if scale < 1:
        size = [max(1, round(length * scale)) for length in image.shape[1::-1]]  # a line stays one pixel thin
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return image


def colored(heatmap: Image) -> Image:
    """(H, W) uint8 → (H, W, 3) BGR: dark where nothing moved, yellow where most did."""
    return cv2.applyColorMap(heatmap, cv2.COLORMAP_INFERNO)


def encode(suffix: str, image: Image) -> bytes:
    """A picture file's bytes."""
    done, data = cv2.imencode(suffix, image)
    if not done:
        raise OutputError(f"an image of shape {image.shape}, type {image.dtype} cannot be written as {suffix}")
    return data.tobytes()
