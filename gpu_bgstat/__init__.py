"""gpu_bgstat: point it at a recording of a fixed camera, get the empty arena.

source ──► schedule ──► ring (on the device) ──► reductions ──► finalize ──► outputs
frames     which ones   the last T samples       Σx, Σx², ranks   mask, fill   PNG, TIFF, report

from gpu_bgstat import estimate, Config
background = estimate("rec.mp4", Config(every=100, max_samples=600))
background.save("out")
"""

from gpu_bgstat.config import Config
from gpu_bgstat.errors import BgstatError
from gpu_bgstat.estimator import BackgroundEstimator
from gpu_bgstat.frames import Background, FrameSpec, Sample
from gpu_bgstat.pipeline import Progress, estimate
from gpu_bgstat.version import __version__

__all__ = [
    "Background",
    "BackgroundEstimator",
    "BgstatError",
    "Config",
    "FrameSpec",
    "Progress",
    "Sample",
    "__version__",
    "estimate",
]
