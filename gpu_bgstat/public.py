"""What `gpu_bgstat` offers, in one place. Importing it takes NumPy, OpenCV and FFmpeg along."""

from gpu_bgstat.config import Config
from gpu_bgstat.errors import BgstatError
from gpu_bgstat.estimator import BackgroundEstimator
from gpu_bgstat.frames import Background, FrameSpec, Sample
from gpu_bgstat.pipeline import Progress, estimate
from gpu_bgstat.snapshots import Snapshots
from gpu_bgstat.windows import estimate_windows

__all__ = [
    "Background",
    "BackgroundEstimator",
    "BgstatError",
    "Config",
    "FrameSpec",
    "Progress",
    "Sample",
    "Snapshots",
    "estimate",
    "estimate_windows",
]
