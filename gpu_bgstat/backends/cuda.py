"""The way to CUDA: which devices CuPy sees, memory that is owned, and CUDA's errors told as ours.

Nothing here runs at import time. The first call makes CUDA's state in this process; a fork is safe before that.
"""

from __future__ import annotations

import ctypes
import logging
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_bgstat.backends.devices import free_bytes_by_uuid
from gpu_bgstat.backends.memory import size_text
from gpu_bgstat.errors import DeviceError

INSTALL = "pip install 'gpu-bgstat[gpu]'"

TO_DEVICE, TO_HOST, ON_DEVICE = 1, 2, 3  # cudaMemcpyKind
_MEMORY_ALLOCATION = 2
_ADVICE = {
    3: "this process was forked after CUDA had been used: start it before, or with the spawn method",
    35: "the NVIDIA driver is missing or too old for this CuPy: install a newer driver",
    100: "no NVIDIA device is visible here: see `nvidia-smi`, and CUDA_VISIBLE_DEVICES",
    209: "this CuPy has no code for this device: install a newer cupy-cuda12x",
    700: "a kernel reached outside its memory; please report it, with the output of `gpu-bgstat doctor`",
    719: "a kernel failed; run `gpu-bgstat doctor`, and start the estimate anew",
}
_LOG = logging.getLogger("gpu_bgstat")


class OutOfDeviceMemoryError(DeviceError):
    """An allocation on a device, or of pinned host memory, was refused."""


@dataclass(frozen=True)
class Gpu:
    """A device as CUDA numbers it (CUDA_VISIBLE_DEVICES counts), and the memory that it has free."""

    index: int
    name: str
    compute_capability: str  # "90" for 9.0
    free_bytes: int

    def __str__(self) -> str:
        return f"gpu:{self.index} ({self.name})"


def cupy() -> Any:
    """The CuPy module; raises DeviceError if it is not installed or cannot be loaded."""
    try:
        import cupy  # noqa: PLC0415  (half a second, and only where a GPU is wanted)
    except ImportError as error:
        missing = getattr(error, "name", None) == "cupy"
        reason = "CuPy is not installed" if missing else f"CuPy cannot be loaded ({str(error).splitlines()[0]})"
        raise DeviceError(f"{reason}: {INSTALL}") from error
    return cupy


def visible() -> list[Gpu]:
    """All devices, the one with the most free memory first; raises DeviceError if there is none.

    Free memory is NVML's reading, which needs no context on the device, or the driver's where NVML has none.
    """
    runtime = cupy().cuda.runtime
    readings = free_bytes_by_uuid()
    found = []
    with cuda_errors("looking for devices"):
        for index in range(runtime.getDeviceCount()):
            properties = runtime.getDeviceProperties(index)
            free = _of_uuid(readings, properties["uuid"])
            name = properties["name"].decode()
            capability = f"{properties['major']}{properties['minor']}"
            found.append(Gpu(index, name, capability, driver_free_bytes(index) if free is None else free))
    if not found:
        raise DeviceError(_ADVICE[100])
    return sorted(found, key=lambda gpu: -gpu.free_bytes)


def driver_free_bytes(index: int) -> int:
    """What the driver says is free on the device, which gets this process's context by that.

    0, and a line that says why, where the device refuses a context: it is full, or another process has it.
    """
    cp = cupy()
    try:
        with cuda_errors(f"gpu:{index}, reading its memory"), cp.cuda.Device(index):
            return int(cp.cuda.runtime.memGetInfo()[0])
    except DeviceError as error:
        _LOG.warning("%s: it is left out", error)
        return 0


def _of_uuid(readings: dict[str, int], raw: bytes) -> int | None:
    """The reading of the device with this UUID, which CuPy cuts before its first zero byte. None if in doubt."""
    digits = (raw + b"\0")[:16].hex()
    found = [free for uuid, free in readings.items() if uuid.removeprefix("GPU-").replace("-", "").startswith(digits)]
    return found[0] if len(found) == 1 else None


def upload(address: int, array: NDArray[Any]) -> None:
    """Copies an array to the device, in the order of the current stream; it has arrived when this returns."""
    stream = cupy().cuda.get_current_stream()
    cupy().cuda.runtime.memcpyAsync(address, array.ctypes.data, array.nbytes, TO_DEVICE, stream.ptr)
    stream.synchronize()


@contextmanager
def cuda_errors(doing: str) -> Iterator[None]:
    """Turns what CuPy raises inside into DeviceError: what was being done, CUDA's reason, and what to do.

    Out of memory becomes OutOfDeviceMemoryError.
    """
    cp = cupy()
    kinds = (cp.cuda.runtime.CUDARuntimeError, cp.cuda.driver.CUDADriverError, cp.cuda.memory.OutOfMemoryError)
    try:
        yield
    except kinds as error:
        status = getattr(error, "status", _MEMORY_ALLOCATION)
        reason = str(error).splitlines()[0]
        if status == _MEMORY_ALLOCATION:
            raise OutOfDeviceMemoryError(f"{doing}: out of memory ({reason})") from error
        advice = _ADVICE.get(status, "run `gpu-bgstat doctor`, or use device=cpu")
        raise DeviceError(f"{doing}: {reason}: {advice}") from error


class Block:
    """Memory of an exact size, freed by `close` or with the last reference, and kept in no pool.

    address  on the device, or of pinned host memory if `device` is None
    """

    def __init__(self, size: int, device: int | None) -> None:
        self.size = size
        self.device = device
        runtime = cupy().cuda.runtime
        where = "pinned host memory" if device is None else f"gpu:{device}"
        with cuda_errors(f"{where}, allocating {size_text(size)}"):
            if device is None:
                self.address: int = runtime.hostAlloc(size, 1)  # portable: pinned for all devices
            else:
                with cupy().cuda.Device(device):
                    self.address = runtime.malloc(size)
        free = runtime.freeHost if device is None else runtime.free
        self._free = weakref.finalize(self, _free, free, self.address, where)
        self._free.atexit = False  # the driver takes it back by itself

    def bytes(self) -> NDArray[np.uint8]:
        """Pinned memory as an array (size,), valid until `close`."""
        return np.ctypeslib.as_array((ctypes.c_uint8 * self.size).from_address(self.address))

    def close(self) -> None:
        self._free()


def _free(free: Any, address: int, where: str) -> None:
    try:
        with cuda_errors(f"{where}, freeing memory"):
            free(address)
    except DeviceError as error:  # after a failed kernel nothing can be freed, and the first error has been told
        _LOG.debug("%s", error)
