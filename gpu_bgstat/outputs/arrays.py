"""variance.npy: the variance with all its bits, for programs."""

from __future__ import annotations

from io import BytesIO

import numpy as np

from gpu_bgstat.frames import Background


def variance_npy(background: Background) -> bytes:
    """(H, W) or (H, W, 3) float32, squared grey levels, in NumPy's format."""
    buffer = BytesIO()
    np.save(buffer, background.variance)
    return buffer.getvalue()
