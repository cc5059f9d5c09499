"""What the doctor and the benchmark look at: missing pieces, results against the CPU, and rates by device events."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_bgstat.backends import cpu, kernels, tiles
from gpu_bgstat.backends.backend import Choice, Light
from gpu_bgstat.backends.cuda import ON_DEVICE, TO_DEVICE, TO_HOST, Block, Gpu, cuda_errors, cupy, upload, visible
from gpu_bgstat.backends.devices import read_devices
from gpu_bgstat.backends.gpu import GpuStore
from gpu_bgstat.backends.kernels import Kernels, compiling
from gpu_bgstat.backends.operations import Engine
from gpu_bgstat.backends.placement import LINE_BYTES, placements, whole_lines
from gpu_bgstat.backends.plain import Plain
from gpu_bgstat.errors import DeviceError
from gpu_bgstat.frames import FrameSpec

_POISON = 0xA5
_SHAPES = ((2, 1000), (3, 1), (16, 130), (257, 127), (600, 260))  # samples, values

ENGINES: dict[str, Callable[[int, Any], Engine]] = {"kernels": Kernels, "CuPy alone": Plain}


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at; where it is not well, `detail` says what to do."""

    name: str
    well: bool
    detail: str


def pieces() -> Iterator[Finding]:
    """Whether what the GPU path needs is installed: driver, CuPy, NVRTC, our kernels. (Headers show in `compare`.)"""
    readings = read_devices()
    driver = f"driver {readings.driver}, CUDA {readings.cuda}" if readings.driver else "; ".join(readings.problems)
    yield Finding("NVIDIA driver", bool(readings.devices) or _cuda_works(), driver or "it knows no device")
    for name, look in (("CuPy", _cupy_version), ("NVRTC", _nvrtc_version), ("kernels", _kernel_names)):
        try:
            yield Finding(name, True, look())
        except DeviceError as error:
            yield Finding(name, False, str(error))


def _cuda_works() -> bool:
    """Whether there is a device although NVML does not tell, as in a container without NVIDIA's utilities."""
    try:
        return bool(visible())
    except DeviceError:
        return False


def _cupy_version() -> str:
    return f"CuPy {cupy().__version__}"


def _nvrtc_version() -> str:
    with compiling("NVRTC"):
        return "NVRTC {}.{}".format(*cupy().cuda.nvrtc.getVersion())


def _kernel_names() -> str:
    return ", ".join(sorted(path.name for path in kernels.folder().glob("*.cu")))


@dataclass
class Bench:
    """A block of samples (T, V) on a device, and room for its results, poisoned before each reduction."""

    device: int
    block: NDArray[Any]
    ring: Block
    ranks: Block
    results: Block
    pitch: int

    def reduce(self, engine: Engine, ranks: Sequence[int]) -> tuple[NDArray[np.float32], NDArray[Any]]:
        """Variance (V,) and ranks (R, V), from the device."""
        cp, stream = cupy(), cupy().cuda.get_current_stream()
        cp.cuda.runtime.memsetAsync(self.results.address, _POISON, self.results.size, stream.ptr)
        self.queue(engine, ranks)()
        stream.synchronize()
        host = np.empty(self.results.size, np.uint8)
        cp.cuda.runtime.memcpy(host.ctypes.data, self.results.address, host.size, TO_HOST)
        values = self.block.shape[1]
        order = host[4 * values :].view(self.block.dtype)[: len(ranks) * values]
        return host[: 4 * values].view(np.float32), order.reshape(len(ranks), values)

    def queue(self, engine: Engine, ranks: Sequence[int]) -> Callable[[], None]:
        """What queues the reduction on the current stream, once or again; the ranks are there already."""
        upload(self.ranks.address, np.array(ranks, np.uint32))
        at, shape = self.results.address, self.block.shape
        fed = self.ring.address, self.pitch
        return lambda: engine.launch(fed, shape, (self.ranks.address, ranks), (at, at + 4 * shape[1]))


@contextmanager
def bench(device: int, block: NDArray[Any], most_ranks: int = 8) -> Iterator[Bench]:
    """Uploads a block (T, V) uint8 or uint16; its device is the current one inside."""
    cp = cupy()
    count, values = block.shape
    pitch = whole_lines(values * block.itemsize)
    sizes = count * pitch, 4 * most_ranks, values * (4 + most_ranks * block.itemsize) + LINE_BYTES
    with cuda_errors(f"gpu:{device}, checking"), cp.cuda.Device(device), ExitStack() as stack:
        ring, ranks, results = (stack.enter_context(closing(Block(size, device))) for size in sizes)
        host = np.full((count, pitch), _POISON, np.uint8)
        host[:, : values * block.itemsize] = block.view(np.uint8)
        with cp.cuda.Stream(non_blocking=True):
            upload(ring.address, host)
            yield Bench(device, block, ring, ranks, results, pitch)


def compare(device: int, engine: str, dtype: Any, seed: int) -> Finding:
    """The engine against the CPU on fresh random data of many shapes: noise, two levels, all values, extremes."""
    rng = np.random.default_rng(seed)
    top = np.iinfo(dtype).max
    cases = 0
    name = f"{engine}, {np.dtype(dtype).name}"
    for count, values in _SHAPES:
        for block in (
            rng.integers(0, top + 1, (count, values)),
            np.clip(rng.normal(top / 3, 4, (count, values)), 0, top),
            rng.integers(0, 2, (count, values)) * top,
            np.full((count, values), top),
        ):
            ranks = sorted({0, (count - 1) // 2, count // 2, count - 1, int(rng.integers(count))})
            samples = block.astype(dtype)
            with bench(device, samples) as here:
                got = here.reduce(ENGINES[engine](device, np.dtype(dtype)), ranks)
            want = tiles.reduce(samples, ranks)
            cases += 1
            for what, ours, theirs in zip(("variance", "ranks"), want, got, strict=True):
                wrong = int((ours != theirs).sum())
                if wrong:
                    detail = f"{wrong} of {ours.size} values of the {what} differ from the CPU's at {count}×{values}"
                    return Finding(name, False, f"{detail}, seed {seed}: do not use this device, and please report it")
    return Finding(name, True, f"{cases} blocks equal to the CPU's results, bit for bit (seed {seed})")


def whole_path(gpu: Gpu, seed: int) -> list[Finding]:
    """Frames through ring, events, lanes, slabs and a scratch file, as an estimate sends them, against the CPU."""
    rng = np.random.default_rng(seed)
    frames = rng.integers(0, 256, (48, 120, 160, 3), np.uint8)
    spec, ranks = FrameSpec.of(frames[0]), [23, 24]
    want = tiles.reduce(frames.reshape(len(frames), -1), ranks)
    plans = {plan.kind: plan for plan in placements(spec, len(frames), [(gpu.index, gpu.free_bytes)], None)}
    findings = []
    for plan in plans.values():
        with closing(GpuStore(spec, plan, plan.kind)) as store:
            for slot in (*range(len(frames)), *range(5)):
                store.put(slot, frames[slot])
            got = store.reduce(len(frames), ranks)
        right = np.array_equal(got.variance.reshape(-1), want[0]) and np.array_equal(got.ranks.reshape(2, -1), want[1])
        detail = "equal to the CPU's results, bit for bit" if right else "other results than the CPU's: do not use it"
        findings.append(Finding(f"whole path, {plan.kind}", right, f"{len(frames)} frames of {spec}: {detail}"))
    return findings


def operations(gpu: Gpu, dtype: Any, seed: int) -> Finding:
    """Chosen samples, a common light, support and modes, in a small ring, against the specification."""
    rng = np.random.default_rng(seed)
    top = int(np.iinfo(dtype).max)
    frames = np.clip(rng.normal(top / 3, top / 30, (40, 44, 60, 3)), 0, top).astype(dtype)
    count, spec = len(frames), FrameSpec.of(frames[0])
    light = Light(rng.integers(0, 2 << 16, (count, 3)), rng.integers(-top << 14, top << 14, (count, 3)))
    keys = rng.integers(0, 8, (count, 6, 8), np.uint32)  # patches of 8; many keys are equal
    choice = Choice(8, keys, rng.integers(0, count + 1, (6, 8), np.uint32))
    image, near, lit = frames[1], top // 30, cpu.lit(frames, light)
    plan = next(placements(spec, count, [(gpu.index, gpu.free_bytes)], None))
    with closing(GpuStore(spec, plan, plan.kind)) as store:
        for slot, frame in enumerate(frames):
            store.put(slot, frame)
        pairs = {
            "ranks in a common light": (
                store.reduce(count, [1], light, [7, 3, 9]).ranks,
                cpu.ranks(lit[[7, 3, 9]], [1]),
            ),
            "chosen samples": (store.select(count, choice), cpu.middles(frames, choice)),
            "chosen samples in a common light": (store.select(count, choice, light), cpu.middles(lit, choice)),
            "support": (store.support(count, image, near, light), cpu.support(lit, image, near)),
            "modes": (store.modes(count, near, light), cpu.modes(lit, near)),
        }
    wrong = [what for what, (got, want) in pairs.items() if not np.array_equal(got, want)]
    detail = f"{', '.join(wrong)}: other results than the CPU's, seed {seed}: do not use it, and please report it"
    return Finding(
        f"operations, {np.dtype(dtype).name}",
        not wrong,
        detail if wrong else f"{', '.join(pairs)}: as specified, bit for bit (seed {seed})",
    )


def milliseconds(run: Callable[[], Any], rounds: int = 5, times: int = 10) -> float:
    """The median time of `run` on the current stream by device events, after one round of warming up.

    Many runs are queued between two events, so that the host's own time for queueing does not count.
    """
    cp = cupy()
    run()
    measured = []
    for _ in range(rounds):
        begin, end = cp.cuda.Event(), cp.cuda.Event()
        begin.record()
        for _ in range(times):
            run()
        end.record()
        end.synchronize()
        measured.append(cp.cuda.get_elapsed_time(begin, end) / times)
    return float(np.median(measured))


@dataclass(frozen=True)
class Rates:
    """GB/s: pinned memory to the device; a copy on the device, read and written bytes; sample bytes reduced."""

    upload: float
    copy: float
    reduction: float

    @property
    def share(self) -> float:
        """Of the bandwidth that a copy on the device reaches."""
        return self.reduction / self.copy


def rates(device: int, size: int) -> Rates:
    """Measured with about `size` bytes: 512 samples of 8 bit."""
    cp = cupy()
    values = max(LINE_BYTES, size // 512 // LINE_BYTES * LINE_BYTES)
    block = np.random.default_rng(0).integers(90, 110, (512, values), np.uint8)
    engine = Kernels(device, block.dtype)
    with bench(device, block) as here, ExitStack() as stack:
        pinned, copy = (stack.enter_context(closing(Block(block.nbytes, where))) for where in (None, device))
        np.copyto(pinned.bytes(), block.reshape(-1))
        stream = cp.cuda.get_current_stream().ptr
        memcpy = cp.cuda.runtime.memcpyAsync
        upload = milliseconds(lambda: memcpy(here.ring.address, pinned.address, block.nbytes, TO_DEVICE, stream))
        across = milliseconds(lambda: memcpy(copy.address, here.ring.address, block.nbytes, ON_DEVICE, stream))
        reduction = milliseconds(here.queue(engine, [255, 256]))
    return Rates(block.nbytes / upload / 1e6, 2 * block.nbytes / across / 1e6, block.nbytes / reduction / 1e6)
