"""The only place that knows CPU from GPU. A backend is selected once, at the edge, and passed down."""

from __future__ import annotations

from gpu_bgstat.backends.backend import Backend
from gpu_bgstat.backends.cpu import CpuBackend
from gpu_bgstat.backends.devices import gpu_names
from gpu_bgstat.errors import DeviceError


def select(device: str) -> Backend:
    """The backend for `device` ("auto", "cpu" or "gpu"); its `why` says in one line what was chosen and why.

    Raises DeviceError for "gpu": this version has no GPU engine, and a GPU asked for is never replaced silently.
    """
    if device == "cpu":
        return CpuBackend("cpu, as asked")
    names = gpu_names()
    if device == "gpu":
        found = f"found {', '.join(names)}" if names else "and no NVIDIA driver or device was found"
        raise DeviceError(f"device=gpu: this version has no GPU engine yet ({found}): use device=auto or cpu")
    if names:
        return CpuBackend(f"cpu: {names[0]} is there, but this version has no GPU engine yet")
    return CpuBackend("cpu: no NVIDIA driver or device was found")
