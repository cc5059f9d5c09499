"""What fails on the GPU: our own error with what to do, or the next plan, and never a wrong picture."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from conftest import only_standin
from test_backends import FIELDS, scene

from gpu_bgstat import BackgroundEstimator, Config, FrameSpec, estimate
from gpu_bgstat.backends import gpu, kernels, select
from gpu_bgstat.backends.cuda import cupy, visible
from gpu_bgstat.backends.placement import Placement, placements
from gpu_bgstat.errors import ConfigError, DeviceError

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("memory_comes_back")]
FRAMES = scene((9, 24, 20, 3), "uint8", "visited")


def outcome(device: str = "gpu") -> str:
    """ "right" or the error; a wrong picture fails the test."""
    try:
        got = estimate(FRAMES, Config(every=1, method="median", device=device))
    except DeviceError as error:
        return str(error)
    want = estimate(FRAMES, Config(every=1, method="median", device="cpu"))
    for field in FIELDS:
        np.testing.assert_array_equal(getattr(got, field), getattr(want, field), err_msg=field)
    return f"right: {got.run.device}"


@only_standin
def test_each_allocation_that_fails_leads_to_a_smaller_plan(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert outcome().startswith("right: gpu:")  # nothing is compiled or pooled below
    for number in range(1, 12):
        caplog.clear()
        monkeypatch.setenv("CUDA_STANDIN_FAIL_ALLOC", f"{number}#once")
        with caplog.at_level(logging.WARNING, "gpu_bgstat"):
            assert outcome().startswith("right: gpu:"), number
        monkeypatch.delenv("CUDA_STANDIN_FAIL_ALLOC")
        told = [record.message for record in caplog.records]
        assert len(told) <= 1 and all("trying the next smaller plan" in line for line in told)
        if number <= 3:
            assert told, "the first allocations are the ring's and the lanes'"


@only_standin
def test_no_memory_at_all(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """`gpu` fails and says the sizes; `auto` says why it takes the CPU, and is right."""
    outcome()
    monkeypatch.setenv("CUDA_STANDIN_FAIL_ALLOC", "1+#all")
    told = outcome()
    assert "too little memory for 9 samples of 20x24 colour, 8 bit" in told and "lower max_samples" in told
    monkeypatch.setenv("CUDA_STANDIN_FAIL_ALLOC", "1+#again")
    with caplog.at_level(logging.WARNING, "gpu_bgstat"):
        assert outcome("auto").startswith("right: cpu, ")
    assert "device: cpu, because too little memory for 9 samples" in caplog.records[-1].message


@only_standin
@pytest.mark.parametrize("variable", ["CUDA_STANDIN_FAIL_HTOD", "CUDA_STANDIN_FAIL_DTOH"])
def test_a_copy_that_fails(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each copy in turn: an error with the device, the sizes and what to do. Never a picture without that frame."""
    outcome()
    failed = 0
    for number in range(1, 16):
        monkeypatch.setenv(variable, f"{number}#{variable}")
        told = outcome()
        monkeypatch.delenv(variable)
        if not told.startswith("right: "):
            failed += 1
            assert told.startswith("gpu:") and "9 samples of 1440 values" in told and "gpu-bgstat doctor" in told
    # nine frames, ranks for two lanes, the background to count what agrees; one chunk of results, one of counts
    assert failed == (12 if variable.endswith("HTOD") else 2)


@only_standin
def test_without_any_compiler(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """CuPy alone needs NVRTC, too: `auto` says so and takes the CPU, `gpu` says what to install."""

    def missing(*arguments: object) -> None:
        raise kernels.KernelError("libnvrtc.so.12 was not found: pip install it")

    monkeypatch.setattr(gpu, "Kernels", missing)
    monkeypatch.setattr(gpu, "Plain", missing)
    assert outcome() == "libnvrtc.so.12 was not found: pip install it"
    with caplog.at_level(logging.WARNING, "gpu_bgstat"):
        assert outcome("auto").startswith("right: cpu, ")
    assert caplog.records[-1].message == "device: cpu, because libnvrtc.so.12 was not found: pip install it"


def test_no_plan_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    """`gpu` refuses; `auto` says why and takes the CPU, unless that has too little memory as well."""
    monkeypatch.setattr(gpu, "placements", lambda *sizes: iter(()))
    refusal = "too little memory for 9 samples of 20x24 colour, 8 bit"
    spec = FrameSpec.of(FRAMES[0])
    assert outcome("gpu").startswith(refusal)
    assert select("gpu").forecast(9, spec).startswith(refusal)
    assert outcome("auto").startswith("right: cpu, ")
    assert select("auto").forecast(9, spec).startswith(f"cpu, because {refusal}")
    with pytest.raises(ConfigError, match=r"0.0 MB of memory \(memory_limit\) are too little"):
        estimate(FRAMES, Config(every=1, device="auto", memory_limit=1000))


def test_a_device_that_gives_no_context_is_left_out(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    runtime = cupy().cuda.runtime

    def refuse() -> tuple[int, int]:
        raise runtime.CUDARuntimeError(2)

    monkeypatch.setattr(runtime, "memGetInfo", refuse)
    with caplog.at_level(logging.WARNING, "gpu_bgstat"):
        assert outcome("auto").startswith("right: cpu, ")
    assert ", reading its memory: out of memory" in caplog.records[0].message
    assert caplog.records[0].message.endswith("it is left out")


def each_plan() -> list[Placement]:
    """The same frames in one ring, split where there are devices, and in slabs."""
    spec = FrameSpec.of(FRAMES[0])
    return list(placements(spec, len(FRAMES), [(device.index, device.free_bytes) for device in visible()], None))


@only_standin
@pytest.mark.parametrize("variable", ["CUDA_STANDIN_FAIL_HTOD", "CUDA_STANDIN_FAIL_DTOH"])
def test_a_copy_that_fails_in_any_plan(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two-dimensional copies of slabs, and rows of frames on several devices, fail like those of one ring."""
    want = estimate(FRAMES, Config(every=1, method="median", device="cpu"))
    for plan in each_plan():
        failed = 0
        for number in range(1, 40):
            monkeypatch.setenv(variable, f"{number}#{plan.kind}")
            try:
                with closing(gpu.GpuStore(FrameSpec.of(FRAMES[0]), plan, "here")) as store:
                    for slot, frame in enumerate(FRAMES):
                        store.put(slot, frame)
                    reduced = store.reduce(len(FRAMES), [4])
            except DeviceError as error:
                failed += 1
                assert str(error).startswith("gpu:") and "9 samples of " in str(error)
            else:
                np.testing.assert_array_equal(reduced.ranks[0], want.background)
                np.testing.assert_array_equal(reduced.variance, want.variance)
            monkeypatch.delenv(variable)
        assert 1 <= failed < 39


def test_pinned_memory_that_is_refused(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """The stand-in counts device memory only, so the call itself is made to refuse large blocks."""
    outcome()
    runtime, host_alloc = cupy().cuda.runtime, cupy().cuda.runtime.hostAlloc

    def refuse(size: int, flags: int) -> int:
        if size >= limit:
            raise runtime.CUDARuntimeError(2)
        return int(host_alloc(size, flags))

    for limit in (1, FRAMES.nbytes // 2):
        caplog.clear()
        monkeypatch.setattr(runtime, "hostAlloc", refuse)
        with caplog.at_level(logging.WARNING, "gpu_bgstat"):
            told = outcome("auto")
        monkeypatch.setattr(runtime, "hostAlloc", host_alloc)
        assert told.startswith("right: cpu" if limit == 1 else "right: ")
        assert "pinned host memory" in caplog.records[0].message


def test_ctrl_c_while_reducing(monkeypatch: pytest.MonkeyPatch) -> None:
    """It arrives in the main thread, which waits; the parts end after their chunk, and a second try is right."""
    spec = FrameSpec.of(FRAMES[0])
    for plan in each_plan():
        with closing(gpu.GpuStore(spec, plan, "here")) as store:
            for slot, frame in enumerate(FRAMES):
                store.put(slot, frame)
            with monkeypatch.context() as patch:

                def interrupt(self: object, timeout: object = None) -> None:
                    raise KeyboardInterrupt

                patch.setattr("concurrent.futures.Future.result", interrupt)
                with pytest.raises(KeyboardInterrupt):
                    store.reduce(len(FRAMES), [4])
            reduced = store.reduce(len(FRAMES), [4])
            np.testing.assert_array_equal(reduced.ranks[0], np.sort(FRAMES, axis=0)[4])


@only_standin
def test_no_background_after_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """A caller who goes on after the error gets it again, not a picture from a ring that is half overwritten."""
    with BackgroundEstimator(Config(every=1, max_samples=4, keep="recent", device="gpu")) as estimator:
        for frame in FRAMES[:6]:
            estimator.collect(frame)
        monkeypatch.setenv("CUDA_STANDIN_FAIL_HTOD", "1#harm")
        with pytest.raises(DeviceError, match="uploading a sample"):
            estimator.collect(FRAMES[6])
        monkeypatch.delenv("CUDA_STANDIN_FAIL_HTOD")
        for go_on in (lambda: estimator.collect(FRAMES[7]), estimator.finalize):
            with pytest.raises(DeviceError, match=r"lost since an earlier failure .*: start anew"):
                go_on()


SCRIPT = """
import sys
sys.path[:0] = {paths!r}
from test_gpu_failures import *
from gpu_bgstat import *
"""


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs code in a process of its own: some failures spoil a device for the rest of a process."""
    paths = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", SCRIPT.format(paths=paths) + code],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, **environment},
    )


@only_standin
@pytest.mark.parametrize("status", [700, 716, 719])
def test_a_launch_that_fails(status: int) -> None:
    """It shows in a later call; the error is ours, nothing is printed on top, and the process ends by itself."""
    done = run("print(outcome())", CUDA_STANDIN_FAIL_LAUNCH=f"1:{status}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("gpu:0, reducing (9 samples of 1440 values, "), done.stdout + done.stderr
    assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr


@only_standin
def test_no_device() -> None:
    done = run("print(outcome()); print(outcome('auto'))", CUDA_STANDIN_DEVICES="0")
    first, second = done.stdout.splitlines()
    assert "no NVIDIA device is visible" in first
    assert second.startswith("right: cpu")


@only_standin
@pytest.mark.parametrize("failing", ["Init", "DeviceGetMemoryInfo", "DeviceGetUUID", "DeviceGetHandleByIndex"])
def test_nvml_fails(failing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver tells the free memory then."""
    monkeypatch.setenv("CUDA_STANDIN_NVML_FAIL", failing)
    assert outcome("auto").startswith("right: gpu:")


def test_no_cuda_before_setup() -> None:
    """Importing, and making an estimator, loads no CuPy."""
    done = run("")  # the tests themselves import it nowhere at the top
    assert done.returncode == 0, done.stderr
    code = (
        "import sys, gpu_bgstat, gpu_bgstat.cli; gpu_bgstat.BackgroundEstimator(gpu_bgstat.Config(device='gpu')); "
        "sys.exit('cupy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


@pytest.mark.parametrize("first", ["BackgroundEstimator(Config(device='gpu'))", "outcome()"])
def test_forks(first: str) -> None:
    """A fork before `setup` is safe; after CUDA has been used, the child gets an error that says so."""
    code = f"""
import os
{first}
child = os.fork()
if not child:
    print(outcome(), flush=True)
    os._exit(0)
os.waitpid(child, 0)
"""
    done = run(code)
    assert done.returncode == 0, done.stderr
    if first == "outcome()":
        assert "this process was forked after CUDA had been used" in done.stdout
    else:
        assert done.stdout.startswith("right: gpu:")
