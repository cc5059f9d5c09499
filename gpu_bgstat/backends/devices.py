"""Which GPUs there are, from NVML alone: no CUDA context is made, so a fork afterwards is safe."""

from __future__ import annotations

import pynvml


def gpu_names() -> list[str]:
    """The names of the NVIDIA GPUs of this machine; empty without a driver or a device."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []
    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(k) for k in range(pynvml.nvmlDeviceGetCount())]
        names = [pynvml.nvmlDeviceGetName(handle) for handle in handles]
    except pynvml.NVMLError:
        return []
    finally:
        pynvml.nvmlShutdown()
    return [name.decode() if isinstance(name, bytes) else name for name in names]
