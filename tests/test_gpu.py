"""The GPU path: what travels and when, where the samples lie, what fails, and that memory is given back."""

from __future__ import annotations

import logging
import re
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import MODULES_BYTES, STANDIN, only_standin
from numpy.typing import NDArray
from test_backends import FIELDS, scene

from gpu_bgstat import BackgroundEstimator, Config, FrameSpec, doctor, estimate
from gpu_bgstat.backends import checkup, cpu, gpu, kernels, tiles
from gpu_bgstat.backends.backend import Store
from gpu_bgstat.backends.cuda import Block, _of_uuid, cupy, driver_free_bytes, upload, visible
from gpu_bgstat.backends.devices import free_bytes_by_uuid
from gpu_bgstat.backends.lanes import Part
from gpu_bgstat.backends.placement import LANES, placements
from gpu_bgstat.backends.plain import Plain
from gpu_bgstat.backends.reading import AS_THEY_ARE
from gpu_bgstat.cli import main
from gpu_bgstat.errors import DeviceError

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("memory_comes_back")]
Samples = NDArray[Any]
SMALL_BYTES = 1 << 27  # a device with less is one whose memory CI has limited


def parts(store: Store) -> list[Part]:
    assert isinstance(store, gpu.GpuStore)
    return store._parts


def assert_statistics(store: Store, frames: Samples) -> None:
    count = len(frames)
    ranks = [(count - 1) // 2, count // 2, 0]
    reduced = store.reduce(count, ranks)
    np.testing.assert_array_equal(reduced.ranks, cpu.ranks(frames, ranks))
    np.testing.assert_array_equal(reduced.variance, cpu.variance(frames))


# --- what travels --------------------------------------------------------------------------------------------------


def copies(log: str, store: Store) -> tuple[int, int, int]:
    """Bytes to the device, to the host, and on the device, from the stand-in's log."""
    blocks = [block for part in parts(store) for block in part._blocks if block.device is not None]

    def on_device(address: int) -> bool:
        return any(block.address <= address < block.address + block.size for block in blocks)

    up = down = across = 0
    for target, source, width, height in re.findall(r"copy (0x\w+) <- (0x\w+), (\d+) x (\d+) bytes", log):
        size = int(width) * int(height)
        there, here = on_device(int(target, 16)), on_device(int(source, 16))
        assert there or here, "a copy that the store does not know of"
        up, down, across = up + size * (not here), down + size * (not there), across + size * (there and here)
    return up, down, across


@only_standin
@pytest.mark.parametrize("gray", [False, True])
def test_pixels_go_up_once_and_results_come_down_once(
    gray: bool, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Grey and the region of interest are made on the host, so that only they travel."""
    frames = scene((20, 40, 60, 3), "uint8", "uniform")
    roi = (5, 5, 31, 20)
    config = Config(every=2, max_samples=6, keep="recent", method="median", gray=gray, roi=roi, device="gpu")
    with BackgroundEstimator(config) as estimator:
        estimator.setup(FrameSpec.of(frames[0]))
        assert estimator._ring is not None
        store = estimator._ring._store
        monkeypatch.setenv("CUDA_STANDIN_LOG", "2")
        capfd.readouterr()
        for frame in frames:
            estimator.collect(frame)
        cupy().cuda.runtime.deviceSynchronize()
        values = 31 * 20 * (1 if gray else 3)
        assert copies(capfd.readouterr().err, store) == (10 * values, 0, 0)
        background = estimator.finalize()
        ranks = 2  # the two middles of six
        up, down = LANES * ranks * 4 + values, values * (4 + ranks + 2)  # and the background, for 16-bit counts
        assert copies(capfd.readouterr().err, store) == (up, down, 0)
        monkeypatch.setenv("CUDA_STANDIN_LOG", "0")
    assert [sample.index for sample in background.samples] == [9, 11, 13, 15, 17, 19]


@only_standin
def test_thinning_moves_samples_on_the_device(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    frames = scene((40, 6, 30), "uint8", "uniform")
    with BackgroundEstimator(Config(every=1, max_samples=8, keep="spread", device="gpu")) as estimator:
        estimator.setup(FrameSpec.of(frames[0]))
        assert estimator._ring is not None
        monkeypatch.setenv("CUDA_STANDIN_LOG", "2")
        for frame in frames:
            estimator.collect(frame)
        cupy().cuda.runtime.deviceSynchronize()
        up, down, across = copies(capfd.readouterr().err, estimator._ring._store)
        monkeypatch.setenv("CUDA_STANDIN_LOG", "0")
    assert down == 0 and across > 0 and across % 180 == 0
    assert 8 * 180 <= up < 40 * 180  # what is not taken does not travel


def test_nothing_is_kept_after_many_runs() -> None:
    """One run after the other, finished, abandoned, or failed: the memory comes back each time."""
    frames = scene((12, 30, 30, 3), "uint8", "noise")
    free = driver_free_bytes(visible()[0].index)
    for _ in range(20):
        estimate(frames, Config(every=1, device="gpu"))
        abandoned = BackgroundEstimator(Config(every=1, device="gpu"))
        abandoned.collect(frames[0])
        del abandoned
    if STANDIN:
        assert driver_free_bytes(visible()[0].index) + MODULES_BYTES >= free


# --- where the samples lie -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("size", [(37, 29, 3), (64, 128), (5, 1)])
def test_every_plan_gives_the_same_results(dtype: str, size: tuple[int, ...]) -> None:
    """One ring, split by rows where there are devices, slabs of several sizes, a file; with moves."""
    frames = scene((25, *size), dtype, "visited")
    spec = FrameSpec.of(frames[0])
    devices = [(device.index, device.free_bytes) for device in visible()]
    plans = list(placements(spec, 25, devices, None))
    kinds = {plan.kind for plan in plans}
    if frames[0].size > 1000:  # else slabs are no smaller than the ring
        assert kinds == {"ring", "slabs", "file"} | ({"split"} if len(devices) > 1 else set())
    for plan in plans:
        with closing(gpu.GpuStore(spec, plan, "here")) as store:
            for slot, frame in enumerate(frames):
                store.put(slot, frames[-1] if slot == 3 else frame)
            store.sync()
            store.move(3, 7)
            store.put(3, frames[3])
            assert_statistics(store, np.concatenate([frames[:7], frames[-1:], frames[8:]]))
            assert_statistics(store, frames[:3])


@only_standin
@pytest.mark.parametrize("share, kind", [(0.5, "ring"), (1.2, "split"), (4.0, "slabs")])
def test_memory_decides_the_plan(share: float, kind: str, capfd: pytest.CaptureFixture[str]) -> None:
    """Samples that take half of a device's memory, more than it has, more than all have."""
    there = visible()
    if there[0].free_bytes > SMALL_BYTES or len(there) != 2:
        pytest.skip("needs two devices with little memory: --devices 2 --memory-mb 4")
    width = int(share * there[0].free_bytes / 60 / 40)
    frames = scene((60, 40, width), "uint8", "noise")
    got = estimate(frames, Config(every=1, device="auto"))
    assert got.run.device.startswith("gpu:") and got.run.device.endswith(f", {kind}")
    want = estimate(frames, Config(every=1, device="cpu"))
    for field in FIELDS:
        np.testing.assert_array_equal(getattr(got, field), getattr(want, field), err_msg=field)


@pytest.mark.parametrize("dtype, count", [("uint8", 66), ("uint16", 33)])
def test_more_values_than_32_bits_count(dtype: str, count: int) -> None:
    """Samples whose rows lie 64 M values apart: offsets beyond 2**31 values, and beyond 2**32 bytes."""
    device = visible()[0]
    pitch = (1 << 26) * np.dtype(dtype).itemsize + 128
    if device.free_bytes < 1.1 * count * pitch:
        pytest.skip(f"needs {count * pitch / 1e9:.1f} GB on the device: --memory-mb 6000")
    frames = scene((count, 2, 75), dtype, "uniform").reshape(count, 150)
    with checkup.bench(device.index, frames) as here, closing(Block(count * pitch, device.index)) as ring:
        for row, frame in enumerate(frames):
            upload(ring.address + row * pitch, frame)
        far = replace(here, ring=ring, pitch=pitch)
        variance, order = far.reduce(kernels.Kernels(device.index, frames.dtype), [count // 2, 0])
    want, ranks = tiles.reduce(frames, [count // 2, 0])
    np.testing.assert_array_equal(order, ranks)
    np.testing.assert_array_equal(variance, want)


@pytest.mark.parametrize("device", ["gpu:0", "gpu:all", "gpu:0,0"])
def test_devices_by_number(device: str) -> None:
    frames = scene((5, 20, 20), "uint8", "uniform")
    got = estimate(frames, Config(every=1, device=device))
    assert got.run.device.startswith("gpu:")
    if device == "gpu:0":
        assert got.run.device.startswith("gpu:0 ")


def test_free_memory_is_nvmls_by_uuid() -> None:
    """CuPy cuts a UUID at its first zero byte."""
    readings = {"GPU-c0c1c2c3-c4c5-c6c7-c8c9-cacbcccdce00": 1, "GPU-c0c1ffff-c4c5-c6c7-c8c9-cacbcccdce01": 2}
    assert _of_uuid(readings, bytes.fromhex("c0c1c2c3c4c5c6c7c8c9cacbcccdce")) == 1
    assert _of_uuid(readings, bytes.fromhex("c0c1")) is None
    assert _of_uuid({**readings, **{"GPU-c0c10000": 3, "GPU-c0c10001": 4}}, bytes.fromhex("c0c1")) is None
    assert _of_uuid(readings, b"") is None
    assert _of_uuid(readings, bytes.fromhex("d0")) is None
    for index in range(len(visible())):
        uuid = cupy().cuda.runtime.getDeviceProperties(index)["uuid"]
        assert _of_uuid(free_bytes_by_uuid(), uuid) is not None


def test_a_device_that_is_not_there() -> None:
    with pytest.raises(DeviceError, match=r"device=gpu:97: there is no gpu:97; there is gpu:0 \("):
        estimate(scene((5, 4, 4), "uint8", "noise"), Config(every=1, device="gpu:97"))


# --- engines -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", list(checkup.ENGINES))
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_engines_against_the_cpu(engine: str, dtype: str) -> None:
    """Fresh results' memory is poisoned, so that a value that nobody writes shows."""
    finding = checkup.compare(visible()[0].index, engine, np.dtype(dtype).type, 7)
    assert finding.well, finding.detail


def test_without_nvrtc_cupy_alone_reduces(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def missing(*arguments: object) -> None:
        raise kernels.KernelError("libnvrtc.so.12 was not found: pip install it")

    monkeypatch.setattr(gpu, "Kernels", missing)
    frames = scene((19, 11, 13, 3), "uint16", "visited")
    with caplog.at_level(logging.WARNING, "gpu_bgstat"):
        got = estimate(frames, Config(every=1, device="gpu"))
    assert [record.message for record in caplog.records] == [
        "libnvrtc.so.12 was not found: pip install it; until then CuPy's own operations reduce, more slowly"
    ]
    want = estimate(frames, Config(every=1, device="cpu"))
    for field in FIELDS:
        np.testing.assert_array_equal(getattr(got, field), getattr(want, field), err_msg=field)


def test_a_kernel_that_does_not_compile_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "README.md").touch()
    (tmp_path / "statistics_u8.cu").write_text('#include "not_there.h"\n')
    monkeypatch.setattr(kernels, "folder", lambda: tmp_path)
    with pytest.raises(kernels.KernelError, match=r"compiling statistics_u8.cu: .*pip install 'gpu-bgstat\[gpu\]'"):
        kernels.Kernels(visible()[0].index, np.dtype(np.uint8))


def test_a_device_with_too_little_shared_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before compute capability 7.0: CuPy alone reduces there."""
    monkeypatch.setattr(kernels, "_MOST_SHARED_BYTES", 8)  # cudaDevAttrMaxSharedMemoryPerBlock: 48 KB
    kernels._loaded.clear()
    with pytest.raises(kernels.KernelError, match=r"gives a block 49152 bytes .* needs 65536: .* 7\.0 or newer"):
        kernels.Kernels(visible()[0].index, np.dtype(np.uint8))


@pytest.mark.parametrize(
    "samples, shape, ranks",
    [
        ((128, 100), (5, 100), [0]),
        ((64, 128), (5, 100), [0]),
        ((128, 128), (5, 129), [0]),
        ((128, 128), (0, 100), []),
        ((128, 128), (65536, 100), []),
        ((128, 128), (5, 0), []),
        ((128, 128), (5, 100), [5]),
        ((128, 128), (5, 100), [-1]),
        ((128, 256), (5, 100), [0] * 9),
    ],
)
def test_the_wrapper_checks_what_a_launch_does_not(
    samples: tuple[int, int], shape: tuple[int, int], ranks: list[int]
) -> None:
    dtype = np.dtype(np.uint16 if len(ranks) > 1 else np.uint8)
    with pytest.raises(ValueError, match=r"samples at 0x|give at most"):
        kernels.Kernels(visible()[0].index, dtype).launch(samples, shape, (0, ranks), (0, 0))


def test_kernels_are_compiled_once_and_announced(caplog: pytest.LogCaptureFixture) -> None:
    device = visible()[0].index
    kernels._loaded.clear()
    with caplog.at_level(logging.INFO, "gpu_bgstat"):
        first, second = (kernels.load("statistics_u8", device, 65536) for _ in range(2))
    assert first is second
    assert [record.message for record in caplog.records] == [
        f"gpu:{device}: preparing statistics_u8.cu for sm_{cupy().cuda.Device(device).compute_capability}"
    ]


def test_plain_needs_little_memory_of_its_own() -> None:
    """It works on tiles, from a pool of its own that is empty afterwards."""
    frames = scene((300, 4, 500), "uint8", "noise").reshape(300, 2000)
    device = visible()[0]
    with checkup.bench(device.index, frames) as here:
        free = driver_free_bytes(device.index)
        here.reduce(Plain(device.index, frames.dtype), [149, 150])
        if STANDIN:
            held = cupy().get_default_memory_pool().total_bytes()
            assert driver_free_bytes(device.index) + held + MODULES_BYTES >= free


def test_the_doctor(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """It trusts what is right, and a device whose results are wrong in one value it does not."""
    monkeypatch.setattr(doctor, "_RATE_BYTES", 1 << 20)
    assert main(["doctor", "--device", f"gpu:{visible()[0].index}"]) == 0
    told = capfd.readouterr().out
    assert told.count("equal to the CPU's results, bit for bit (seed ") == 4 and "GB/s of samples" in told
    assert told.endswith("The GPU path can be trusted here: its results equal the CPU's, bit for bit.\n")

    class Wrong(kernels.Kernels):
        def launch(self, samples: Any, shape: Any, ranks: Any, results: Any, reading: Any = AS_THEY_ARE) -> None:
            super().launch(samples, shape, ranks, results, reading)
            cupy().cuda.runtime.memsetAsync(results[0], 1, 1, cupy().cuda.get_current_stream().ptr)

    monkeypatch.setitem(checkup.ENGINES, "kernels", Wrong)
    assert main(["doctor"]) == 1
    told = capfd.readouterr().out
    assert "BAD  kernels, uint8: 1 of 1000 values of the variance differ from the CPU's at 2×1000, seed " in told
    assert "The GPU path cannot be trusted here (kernels, uint8, kernels, uint16): use --device cpu" in told


def test_the_command_plans_and_says_where(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "stack.npy"
    np.save(path, scene((30, 20, 30, 3), "uint8", "noise"))
    assert main(["plan", str(path), "--every", "1"]) == 0
    assert "place    one ring on gpu:" in capfd.readouterr().out
    assert main(["estimate", str(path), "--every", "1", "-o", str(tmp_path / "out")]) == 0
    told = capfd.readouterr()
    assert told.err.startswith("device: gpu:") and "samples: one ring on gpu:" in told.err
    assert re.search(r"30 samples of 30 frames in .* s \(gpu:\d+ \(.*\), ring\)", told.out)
