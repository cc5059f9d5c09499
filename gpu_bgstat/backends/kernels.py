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

from gpu_bgstat.backends import dense
from gpu_bgstat.backends.cuda import INSTALL, cuda_errors, cupy
from gpu_bgstat.backends.device_tiles import at, in_own_pool
from gpu_bgstat.backends.placement import LINE_BYTES
from gpu_bgstat.backends.reading import AS_THEY_ARE, Patches, Reading
from gpu_bgstat.config import MAX_SAMPLES_LIMIT
from gpu_bgstat.errors import DeviceError

_MOST_SHARED_BYTES = 97  # cudaDevAttrMaxSharedMemoryPerBlockOptin
_LOG = logging.getLogger("gpu_bgstat")
# Compiled once a process and device; CuPy keeps the code itself in its cache on disk.
_loaded: dict[tuple[int, int, str, tuple[str, ...]], Any] = {}
# As `Reading` in kernels/variants.cuh.
_READING = np.dtype(
    [(name, np.uint64) for name in ("rows", "light", "mask", "counts")]
    + [(name, np.uint32) for name in ("first", "channels", "width", "patch", "columns", "top", "patches", "span")]
)


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


def load(name: str, device: int, dynamic_shared_bytes: int, defines: tuple[str, ...] = ()) -> Any:
    """The kernel of this name, compiled for the device; raises KernelError if that cannot be done.

    defines  the variant: "LIGHT=1"
    """
    cp = cupy()
    key = (os.getpid(), device, name, (*options(), *(f"-D{define}" for define in defines)))
    if key not in _loaded:
        source = (folder() / f"{name}.cu").read_text(encoding="utf-8")
        with cuda_errors(f"gpu:{device}, loading the kernel {name}"), cp.cuda.Device(device) as chosen:
            room = cp.cuda.runtime.deviceGetAttribute(_MOST_SHARED_BYTES, device)
            if room < dynamic_shared_bytes:
                raise KernelError(
                    f"gpu:{device} gives a block {room} bytes of shared memory, and {name}.cu needs "
                    f"{dynamic_shared_bytes}: it takes a device of compute capability 7.0 or newer"
                )
            variant = f" with {', '.join(defines)}" if defines else ""
            _LOG.info("gpu:%d: preparing %s.cu%s for sm_%s", device, name, variant, chosen.compute_capability)
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
    """Reduces samples of one type on one device with the kernels. A variant is compiled when it is first asked for."""

    def __init__(self, device: int, dtype: np.dtype[Any]) -> None:
        """Raises KernelError where they cannot be compiled, ValueError for another type than uint8 and uint16."""
        if dtype not in (np.uint8, np.uint16):
            raise ValueError(f"type {dtype}: the kernels take uint8 and uint16")
        self._device, self._dtype = device, dtype
        self._wide = dtype == np.uint16
        self._name, self._threads, self._shared = (
            ("statistics_u16", 512, 32768) if self._wide else ("statistics_u8", 1024, 65536)
        )
        self._line = LINE_BYTES // dtype.itemsize  # values that a block reduces
        self.most_ranks = 8 if self._wide else MAX_SAMPLES_LIMIT  # a launch
        load(self._name, device, self._shared)

    def launch(
        self,
        samples: tuple[int, int],
        shape: tuple[int, int],
        ranks: tuple[int, Sequence[int]],
        results: tuple[int, int],
        reading: Reading = AS_THEY_ARE,
    ) -> None:
        """Queues the reduction on the current stream. All addresses are on the device.

        samples  address and pitch in bytes; both multiples of 128
        shape    samples, values
        ranks    address of the ranks, uint32, and the ranks themselves; `most_ranks` at most
        results  address of the variance (values,) float32, and of the ranks' samples (ranks, values)
        reading  which rows are the samples, and in which light
        """
        ranks_at, wanted = ranks
        self._check(samples, shape, reading)
        if len(wanted) > self.most_ranks or any(not 0 <= rank < shape[0] for rank in wanted):
            raise ValueError(f"ranks {list(wanted)} of {shape[0]} samples: give at most {self.most_ranks} below that")
        self._statistics(samples, shape, (ranks_at, len(wanted), *results), (_variant(reading), reading))

    def middles(
        self, samples: tuple[int, int], shape: tuple[int, int], patches: Patches, result: int, reading: Reading
    ) -> None:
        """Queues the two middle ranks of the samples that count, into `result` (2, values); arguments as `launch`."""
        self._check(samples, shape, reading)
        ends = [
            pixel // reading.channels // patches.width // patches.side - patches.top
            for pixel in (reading.first, reading.first + shape[1] - 1)
        ]
        if ends[0] < 0 or ends[1] >= patches.total // patches.columns:
            raise ValueError(f"{reading}, {shape[1]} values: they reach beyond {patches}")
        warps = self._threads // 32
        mark = load("chosen", self._device, 32768, (f"READERS={warps}",))
        arguments = (patches.keys, np.uint32(shape[0]), np.uint32(patches.total), patches.counts, patches.mask)
        mark((-(-patches.total // 32),), (512,), arguments, shared_mem=32768)
        fields = {
            **{"mask": patches.mask, "counts": patches.counts, "patches": patches.total, "top": patches.top},
            **{"width": patches.width, "patch": patches.side, "columns": patches.columns},
        }
        variant = ("CHOSEN=1", *_variant(reading)), reading
        self._statistics(samples, shape, (0, 2, 0, result), variant, **fields)

    def support(
        self,
        samples: tuple[int, int],
        shape: tuple[int, int],
        image: tuple[int, int],
        result: int,
        reading: Reading,
    ) -> None:
        """Queues how many samples are near an image, into `result` (values,) uint16.

        image  its address (values,), readable up to a multiple of 4 bytes; and the tolerance
        """
        (address, pitch), (count, values), (image_at, tolerance) = samples, shape, image
        self._check(samples, shape, reading)
        if tolerance < 0:
            raise ValueError(f"a tolerance of {tolerance} levels: give 0 or more")
        kernel = load("support", self._device, 0, (f"WIDE={int(self._wide)}", *_variant(reading)))
        arguments = (
            *(address, np.int64(pitch), np.uint32(count), np.int64(values), image_at),
            *(np.uint32(min(tolerance, np.iinfo(self._dtype).max)), result, _struct(reading)),
        )
        kernel((-(-values // self._line),), (512,), arguments)

    def modes(self, samples: tuple[int, int], shape: tuple[int, int], span: int, result: int, reading: Reading) -> None:
        """Queues the modes, into `result` (values,); for 16 bits CuPy sorts, and this waits for it."""
        self._check(samples, shape, reading)
        if span < 1:
            raise ValueError(f"an interval of {span} levels: give 1 or more")
        if not self._wide:
            variant = ("MODE=1", *_variant(reading)), reading
            self._statistics(samples, shape, (0, 1, 0, result), variant, span=min(span, 256))
            return
        with cuda_errors(f"gpu:{self._device}, finding modes"):
            in_own_pool(lambda: dense.put_modes(samples, shape, span, at(result, (shape[1],), self._dtype), reading))

    def _check(self, samples: tuple[int, int], shape: tuple[int, int], reading: Reading) -> None:
        (address, pitch), (count, values) = samples, shape
        lines = all(number % LINE_BYTES == 0 for number in samples) and pitch >= values * self._dtype.itemsize
        if not lines or not 1 <= count <= MAX_SAMPLES_LIMIT or values < 1:
            raise ValueError(f"samples at {address:#x}, pitch {pitch}, shape {shape}: not what the kernel takes")
        if reading.channels not in (1, 3) or not 0 <= reading.first <= (1 << 32) - values:
            raise ValueError(f"{reading}, {values} values: not what the kernel takes")

    def _statistics(
        self,
        samples: tuple[int, int],
        shape: tuple[int, int],
        asked: tuple[int, int, int, int],
        variant: tuple[tuple[str, ...], Reading],
        **fields: int,
    ) -> None:
        """asked: address and number of the ranks, addresses of variance and order; fields: of `_READING`."""
        (address, pitch), (count, values), (ranks_at, ranks, variance, order) = samples, shape, asked
        defines, reading = variant
        arguments = (
            *(address, np.int64(pitch), np.uint32(count), np.int64(values)),
            *(ranks_at, np.uint32(ranks), variance, order, np.int64(values), _struct(reading, **fields)),
        )
        kernel = load(self._name, self._device, self._shared, defines)
        kernel((-(-values // self._line),), (self._threads,), arguments, shared_mem=self._shared)


def _variant(reading: Reading) -> tuple[str, ...]:
    return ("ROWS=1",) * bool(reading.rows) + ("LIGHT=1",) * bool(reading.light)


def _struct(reading: Reading, **fields: int) -> Any:
    """`Reading` as kernels/variants.cuh has it; `fields` are those of variants."""
    struct = np.zeros((), _READING)
    own = {"rows": reading.rows, "light": reading.light, "channels": reading.channels, "first": reading.first}
    for name, number in (own | fields).items():
        struct[name] = number
    return struct
