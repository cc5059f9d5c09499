"""The only place that knows CPU from GPU. A backend is selected once, at the edge, and passed down.

backend    what a device must offer
cpu        the specification, and a block in memory;   tiles ► moments, order: the reductions in NumPy
gpu        plans and parts;   placement: the plans;   lanes ► residence: one device's part;   kernels or plain: its
           reductions;   cuda: memory and errors;   devices: NVML;   checkup: what the doctor looks at
room       so much of the host's memory, or a scratch file;   scratch: samples in a file;   memory: how much there is
nvdec      pictures of the hardware decoder;   colors: matrices;   trial: whether it gives the CPU's bits
"""

from __future__ import annotations

from importlib.util import find_spec

from gpu_bgstat.backends.backend import Backend
from gpu_bgstat.backends.cpu import CpuBackend
from gpu_bgstat.backends.devices import gpu_names
from gpu_bgstat.backends.gpu import GpuBackend, chosen
from gpu_bgstat.backends.memory import size_text
from gpu_bgstat.errors import DeviceError


def select(device: str) -> Backend:
    """The backend for `Config.device`; its `why` says in one line what was chosen and why.

    "auto" takes the GPU with the most free memory, and the CPU where there is none or all are too small. Raises
    DeviceError where a GPU was asked for and is not there: it is never replaced silently.
    """
    if device == "cpu":
        return CpuBackend("cpu, as asked")
    try:
        gpus = chosen("gpu" if device == "auto" else device)
    except DeviceError as error:
        nothing = find_spec("cupy") is None and not gpu_names()
        reason = "no NVIDIA driver or device was found" if nothing else str(error)
        if device == "auto":
            return CpuBackend(f"cpu, because {reason}")
        raise DeviceError(f"device={device}: {reason}: {error}" if nothing else str(error)) from error
    free = f"{size_text(gpus[0].free_bytes)} free"
    if device != "auto":
        return GpuBackend(gpus, f"{gpus[0]}, as asked, {free}")
    why = f"{gpus[0]}, {free}" + (f", the most of {len(gpus)} devices" if len(gpus) > 1 else "")
    return GpuBackend(gpus, why, fallback=CpuBackend("cpu"))
