"""Sums, sums of squares and the exact variance of a strip of samples, in NumPy and OpenCV."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Samples = NDArray[Any]  # uint8 or uint16
Singles = NDArray[np.float32]
Doubles = NDArray[np.float64]

_SUM_BYTES = 1 << 19  # accumulators that are added to at a time
_FLOAT32_RUN = 258  # 258 * 255**2 < 2**24: so many 8-bit squares add up exactly in float32


def moments(strip: Samples) -> tuple[Doubles, Doubles]:
    """Sum and sum of squares of each column of strip (T, W): whole numbers below 2**48, exact."""
    count, width = strip.shape
    kind = np.float32 if strip.dtype == np.uint8 else np.float64
    rows = min(count, max(1, _SUM_BYTES // (width * kind().itemsize)))
    # Each accumulator takes every rows-th sample, and is emptied while its type still holds the sum exactly.
    run = rows * _FLOAT32_RUN if kind is np.float32 else count
    sums = np.zeros((2, width))
    for start in range(0, count, run):
        partial = np.zeros((2, rows, width), kind)
        for row in range(start, min(start + run, count), rows):
            chunk = strip[row : row + rows]
            cv2.accumulate(chunk, partial[0, : len(chunk)])
            cv2.accumulateSquare(chunk, partial[1, : len(chunk)])
        sums += partial.sum(axis=1, dtype=np.float64)
    return sums[0], sums[1]


def exact_variance(count: int, total: NDArray[Any], total_sq: NDArray[Any]) -> Singles:
    """(count * total_sq - total**2) / count**2, rounded once, half to even; whole numbers, count <= 65535.

    A float64 quotient rounded to float32 has been rounded twice. That goes wrong only beside the middle of
    two float32, where the low 29 bits of the quotient are near 1000...0; there the integers decide.
    """
    quotient: Doubles = _numerator(count, total, total_sq) / np.float64(count * count)
    places = np.flatnonzero(near_middle(quotient))
    if places.size:
        numerator = _numerator(count, total[places], total_sq[places]).astype(np.uint64)
        quotient[places] = beside_middle(numerator, count * count, quotient[places], np)
    return quotient.astype(np.float32)


def _numerator(count: int, total: NDArray[Any], total_sq: NDArray[Any]) -> NDArray[Any]:
    """count * total_sq - total**2, exact: in float64 where all products are below 2**53, else in uint64."""
    kind = np.float64 if count * int(total_sq.max()) < 1 << 53 else np.uint64
    total = total.astype(kind, copy=False)
    numerator: NDArray[Any] = total_sq.astype(kind, copy=False) * kind(count) - total * total
    return numerator


def near_middle(quotient: Any) -> Any:
    """Where a float64 lies so near to the middle of two float32 that rounding it may go wrong. NumPy or CuPy."""
    low = quotient.view(np.uint64) & np.uint64((1 << 29) - 1)
    # Numerator and quotient are half a unit off at most: 4 is a wide margin. Lower values wrap around.
    return low - np.uint64((1 << 28) - 4) <= np.uint64(8)


def beside_middle(numerator: Any, divisor: int, quotient: Any, xp: Any) -> Any:
    """The middle m * 2**(e - 24) of two float32 beside each quotient, moved one bit towards the ratio.

    numerator (V,) uint64, quotient (V,) float64; `xp` is the module of these arrays, NumPy or CuPy.
    """
    bits = quotient.view(np.uint64)
    middle = (bits >> np.uint64(29) << np.uint64(29)) | np.uint64(1 << 28)
    m = (middle >> np.uint64(28) & np.uint64((1 << 24) - 1)) | np.uint64(1 << 24)
    shift = 24 + 1023 - (bits >> np.uint64(52)).astype(np.int64)
    # 2**-32 <= variance < 2**30, so that both sides stay below 2**63.
    left = numerator << xp.maximum(shift, 0).astype(np.uint64)
    right = m * np.uint64(divisor) << xp.maximum(-shift, 0).astype(np.uint64)
    return (middle.view(np.int64) + xp.sign(left.view(np.int64) - right.view(np.int64))).view(np.float64)
