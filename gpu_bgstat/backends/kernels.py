"""The CUDA sources: where they lie, and how they become functions on a device."""

from __future__ import annotations

import atexit
import ctypes
import hashlib
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from gpu_bgstat.backends.cuda import INSTALL, cuda_errors, cupy
from gpu_bgstat.config import MAX_SAMPLES_LIMIT
from gpu_bgstat.errors import DeviceError

_MOST_SHARED_BYTES = 97  # cudaDevAttrMaxSharedMemoryPerBlockOptin
_LOG = logging.getLogger("gpu_bgstat")
# Compiled once a process and device; CuPy keeps the code itself in its cache on disk.
_loaded: dict[tuple[int, int, str, tuple[str, ...]], Any] = {}


@atexit.register
def _leave_to_the_driver() -> None:
    """The process's end takes the modules along. Unloading them after a failed kernel would only print errors."""
    for kernel in _loaded.values():
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(kernel))


class KernelError(DeviceError):
    """A kernel cannot be compiled here: NVRTC or the CUDA headers are missing, or too old."""


def folder() -> Path:
    """The folder with the kernels' sources: in the package of a wheel, at the top of a checkout.

    Raises DeviceError if the installation lacks it.
    """
    package = Path(__file__).resolve().parents[1]
    for candidate in (package / "kernels", package.parent / "kernels"):
        if (candidate / "README.md").is_file():
            return candidate
    raise DeviceError(f"the kernels are missing beside {package}: install gpu-bgstat anew")


def options() -> tuple[str, ...]:
    """What NVRTC gets. The hash makes CuPy's cache on disk notice a header that has changed."""
    digest = hashlib.sha256()
    for path in sorted(folder().glob("*.cu*")):
        digest.update(path.read_bytes())
    return (f"-I{folder()}", "-std=c++17", f"-DBGSTAT_SOURCES=0x{digest.hexdigest()[:12]}")


def load(name: str, device: int, dynamic_shared_bytes: int) -> Any:
    """The kernel of this name, compiled for the device; raises KernelError if that cannot be done."""
    cp = cupy()
    key = (os.getpid(), device, name, options())
    if key not in _loaded:
        source = (folder() / f"{name}.cu").read_text(encoding="utf-8")
        with cuda_errors(f"gpu:{device}, loading the kernel {name}"), cp.cuda.Device(device) as chosen:
            room = cp.cuda.runtime.deviceGetAttribute(_MOST_SHARED_BYTES, device)
            if room < dynamic_shared_bytes:
                raise KernelError(
                    f"gpu:{device} gives a block {room} bytes of shared memory, and {name}.cu needs "
                    f"{dynamic_shared_bytes}: it takes a device of compute capability 7.0 or newer"
                )
            _LOG.info("gpu:%d: preparing %s.cu for sm_%s", device, name, chosen.compute_capability)
            with compiling(f"gpu:{device}, compiling {name}.cu"):
                kernel = cp.RawModule(code=source, options=key[3], backend="nvrtc").get_function(name)
            if dynamic_shared_bytes > kernel.attributes["max_dynamic_shared_size_bytes"]:
                kernel.max_dynamic_shared_size_bytes = dynamic_shared_bytes
            kernel.preferred_shared_memory_carveout = 100  # percent: as many blocks a multiprocessor as fit
            _loaded[key] = kernel
    return _loaded[key]


@contextmanager
def compiling(doing: str) -> Iterator[None]:
    """Turns what NVRTC and its loading raise inside into KernelError, with what to install."""
    cp = cupy()
    try:
        yield
    except (cp.cuda.runtime.CUDARuntimeError, cp.cuda.driver.CUDADriverError):
        raise
    except (cp.cuda.compiler.CompileException, ImportError, OSError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise KernelError(f"{doing}: {reason}: {INSTALL} brings NVRTC and the CUDA headers") from error


class Kernels:
    """Reduces samples of one type on one device with the kernels."""

    def __init__(self, device: int, dtype: np.dtype[Any]) -> None:
        """Raises KernelError where they cannot be compiled, ValueError for another type than uint8 and uint16."""
        if dtype not in (np.uint8, np.uint16):
            raise ValueError(f"type {dtype}: the kernels take uint8 and uint16")
        self._itemsize = dtype.itemsize
        wide = dtype == np.uint16
        name, self._values, self._threads, self._shared = (
            ("statistics_u16", 64, 512, 32768) if wide else ("statistics_u8", 128, 1024, 65536)
        )
        self.most_ranks = 8 if wide else MAX_SAMPLES_LIMIT  # a launch
        self._kernel = load(name, device, self._shared)

    def launch(
        self,
        samples: tuple[int, int],
        shape: tuple[int, int],
        ranks: tuple[int, Sequence[int]],
        results: tuple[int, int],
    ) -> None:
        """Queues the reduction on the current stream. All addresses are on the device.

        samples  address and pitch in bytes; both multiples of 128
        shape    samples, values
        ranks    address of the ranks, uint32, and the ranks themselves; `most_ranks` at most
        results  address of the variance (values,) float32, and of the ranks' samples (ranks, values)
        """
        (address, pitch), (count, values), (ranks_at, wanted) = samples, shape, ranks
        lines = all(number % 128 == 0 for number in samples) and pitch >= values * self._itemsize
        if not lines or not 1 <= count <= MAX_SAMPLES_LIMIT or values < 1:
            raise ValueError(f"samples at {address:#x}, pitch {pitch}, shape {shape}: not what the kernel takes")
        if len(wanted) > self.most_ranks or any(not 0 <= rank < count for rank in wanted):
            raise ValueError(f"ranks {list(wanted)} of {count} samples: give at most {self.most_ranks} below that")
        arguments = (
            *(address, np.int64(pitch), np.uint32(count), np.int64(values)),
            *(ranks_at, np.uint32(len(wanted)), *results, np.int64(values)),
        )
        blocks = -(-values // self._values)
        self._kernel((blocks,), (self._threads,), arguments, shared_mem=self._shared)
