"""gpu_bgstat: point it at a recording of a fixed camera, get the empty arena.

source ──► schedule ──► ring (on the device) ──► reductions ──► finalize ──► outputs
frames     which ones   the last T samples       Σx, Σx², ranks   mask, fill   PNG, NPY, report

from gpu_bgstat import estimate, Config
background = estimate("rec.mp4", Config(every=100, max_samples=600))
background.save("out")
"""

from typing import TYPE_CHECKING, Any

from gpu_bgstat.version import __version__

if TYPE_CHECKING:
    from gpu_bgstat.public import (
        Background,
        BackgroundEstimator,
        BgstatError,
        Config,
        FrameSpec,
        Progress,
        Sample,
        Snapshots,
        estimate,
        estimate_windows,
    )

__all__ = [
    "Background",
    "BackgroundEstimator",
    "BgstatError",
    "Config",
    "FrameSpec",
    "Progress",
    "Sample",
    "Snapshots",
    "__version__",
    "estimate",
    "estimate_windows",
]


def __getattr__(name: str) -> Any:
    """Loads the library with the first use of a name, so that the command can catch Ctrl-C from its first moment."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from gpu_bgstat import public  # noqa: PLC0415

    return getattr(public, name)
