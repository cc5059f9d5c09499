"""How the samples of a strip lie: how many are near a value, and where they are densest. In NumPy."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gpu_bgstat.backends.moments import Samples

_CHUNK_BYTES = 1 << 20  # samples compared at a time
_MASK_RUN = 255  # over so many rows a column of a mask adds up in eight bits
_COLUMNS = 1 << 10  # of histograms at a time


def near(strip: Samples, image: Samples, tolerance: int) -> NDArray[np.uint16]:
    """How many samples of each column of strip (T, W) are within `tolerance` levels of image (W,)."""
    top = np.iinfo(strip.dtype).max
    tolerance = min(tolerance, int(top))
    low = np.maximum(image, tolerance) - strip.dtype.type(tolerance)
    span = np.minimum(image, top - tolerance) + strip.dtype.type(tolerance) - low
    counts = np.zeros(len(image), np.uint16)
    rows = min(_MASK_RUN, max(1, _CHUNK_BYTES // strip[0].nbytes))
    for start in range(0, len(strip), rows):
        above = strip[start : start + rows] - low  # what lies below wraps around to the top
        counts += np.add.reduce((above <= span).view(np.uint8), axis=0, dtype=np.uint8)
    return counts


def densest(strip: Samples, width: int) -> Samples:
    """The lower middle sample of the densest interval of `width` levels in each column of strip (T, W)."""
    out = np.empty(strip.shape[1], strip.dtype)
    for start in range(0, len(out), _COLUMNS):
        part = slice(start, start + _COLUMNS)
        ordered = np.sort(np.ascontiguousarray(strip[:, part].T), axis=1, kind="stable")  # by digits
        out[part] = _densest(ordered, width)
    return out


def _densest(ordered: Samples, width: int) -> Samples:
    """Of samples in order (W, T). Whether some interval holds m samples is asked for ever closer m."""
    columns = np.arange(len(ordered))
    count = ordered.shape[1]
    most = np.ones(len(ordered), np.intp)  # so many are in some interval
    for step in (1 << bit for bit in reversed(range(count.bit_length()))):
        more = most + step
        fits = more <= count
        for size in np.unique(more[fits]):
            those = np.flatnonzero(more == size)
            spans = ordered[those, size - 1 :] - ordered[those, : count - size + 1]
            most[those] = np.where((spans < width).any(axis=1), size, most[those])
    first = np.empty(len(ordered), np.intp)
    for size in np.unique(most):
        those = np.flatnonzero(most == size)
        spans = ordered[those, size - 1 :] - ordered[those, : count - size + 1]
        first[those] = np.argmax(spans < width, axis=1)
    found: Samples = ordered[columns, first + (most - 1) // 2]
    return found
