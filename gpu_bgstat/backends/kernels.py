"""Where the CUDA sources lie: in the package when installed from a wheel, at the top of the checkout otherwise."""

from __future__ import annotations

from pathlib import Path

from gpu_bgstat.errors import DeviceError


def folder() -> Path:
    """The folder with the kernels' sources; raises DeviceError if the installation lacks it."""
    package = Path(__file__).resolve().parents[1]
    for candidate in (package / "kernels", package.parent / "kernels"):
        if (candidate / "README.md").is_file():
            return candidate
    raise DeviceError(f"the kernels are missing beside {package}: install gpu-bgstat anew")
