"""What NVML tells and what it does not: the table, the JSON, and each NVML call failing.

Tests marked `gpu` ask the device, or the stand-in. The others need none: NVML's answers that neither has to give (MIG,
memory shared with the machine, old bindings) come from a double of the binding.
"""

from __future__ import annotations

import ctypes
import functools
import inspect
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pynvml
import pytest

from gpu_bgstat.backends import devices
from gpu_bgstat.backends.devices import Reading, Readings, free_bytes_by_uuid, gpu_names, read_devices
from gpu_bgstat.cli import main
from gpu_bgstat.device_table import as_dict, as_text

HEADS = [
    "GPU",
    "name",
    "compute capability",
    "used GB",
    "free GB",
    "total GB",
    "utilisation %",
    "temperature °C",
    "power W",
]
UUIDS = ["GPU-00000000-1111-2222-3333-444444444440", "GPU-00000000-1111-2222-3333-444444444441"]

# NVML function → what its failure leaves unknown
OF_A_DEVICE: dict[str, set[str]] = {
    "nvmlDeviceGetUUID": {"uuid"},
    "nvmlDeviceGetName": {"name"},
    "nvmlDeviceGetCudaComputeCapability": {"compute_capability"},
    "nvmlDeviceGetMemoryInfo": {"memory_total", "memory_used", "memory_free"},
    "nvmlDeviceGetUtilizationRates": {"utilisation_percent"},
    "nvmlDeviceGetTemperature": {"temperature_c"},
    "nvmlDeviceGetPowerUsage": {"power_w"},
    "nvmlDeviceGetEnforcedPowerLimit": {"power_limit_w"},
    "nvmlDeviceGetMigMode": {"mig"},
}
OF_A_DEVICE["nvmlDeviceGetHandleByIndex"] = set().union(*OF_A_DEVICE.values())
OF_THE_DRIVER = {"nvmlSystemGetDriverVersion": "driver", "nvmlSystemGetCudaDriverVersion": "cuda"}

full = Reading(
    index=0,
    uuid=UUIDS[0],
    name="NVIDIA H200",
    compute_capability="9.0",
    memory_total=150_000_000_000,
    memory_used=1_250_000_000,
    memory_free=148_750_000_000,
    utilisation_percent=12,
    temperature_c=41,
    power_w=61.4,
    power_limit_w=700.0,
    mig=False,
)


def rows(text: str) -> list[list[str]]:
    """The table's cells, heads first."""
    return [re.split(r"  +", line.strip()) for line in text.splitlines() if re.match(r"GPU| *\d", line)]


def outcome(capfd: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of the command, run in this process."""
    code = main(list(arguments))
    told = capfd.readouterr()
    return code, told.out, told.err


def raising(function: Callable[..., Any], status: int) -> Callable[..., Any]:
    @functools.wraps(function)
    def failing(*_: Any) -> Any:
        raise pynvml.NVMLError(status)

    return failing


# --- a device, or the stand-in -------------------------------------------------------------------------------------


@pytest.fixture
def nvml() -> Iterator[Readings]:
    """The readings of a machine with NVML and a device; afterwards NVML is shut down, whatever the test did."""
    readings = read_devices()
    if not readings.devices:
        reason = f"needs a device: {as_text(readings)}"
        if os.environ.get("BGSTAT_REQUIRE_GPU") == "1":
            pytest.fail(f"BGSTAT_REQUIRE_GPU=1, but the test {reason}")
        pytest.skip(reason)
    yield readings
    while initialised():
        pynvml.nvmlShutdown()


@pytest.fixture
def fail(nvml: Readings, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes NVML functions fail with the status: the stand-in's own, or on a real driver the binding's."""

    def fail(*names: str, status: int = pynvml.NVML_ERROR_GPU_IS_LOST) -> None:
        if "standin" in (nvml.driver or ""):
            faults = ",".join(f"{name.removeprefix('nvml')}:{status}" for name in names)
            monkeypatch.setenv("CUDA_STANDIN_NVML_FAIL", faults)
            return
        for name in names:
            monkeypatch.setattr(pynvml, name, raising(getattr(pynvml, name), status))

    return fail


def initialised() -> bool:
    try:
        pynvml.nvmlDeviceGetCount()
    except pynvml.NVMLError:
        return False
    return True


@pytest.mark.gpu
def test_everything_is_read(nvml: Readings) -> None:
    """Plausible values of the right types, and NVML is left as it was."""
    assert nvml.driver and re.fullmatch(r"\d+\.\d", nvml.cuda or "")
    for index, device in enumerate(nvml.devices):
        assert device.index == index
        assert re.fullmatch(r"GPU-\w{8}(-\w{4}){3}-\w{12}", device.uuid or "")
        assert isinstance(device.name, str) and re.fullmatch(r"\d+\.\d", device.compute_capability or "")
        if device.memory_total is not None:  # a GPU that shares the machine's memory has none to tell
            assert device.memory_used is not None and device.memory_free is not None
            assert 0 <= device.memory_used <= device.memory_total and 0 < device.memory_free <= device.memory_total
    assert not initialised()


@pytest.mark.gpu
def test_the_table_of_a_device(nvml: Readings) -> None:
    text = as_text(nvml)
    assert text.splitlines()[0] == f"driver {nvml.driver}, CUDA {nvml.cuda}"
    heads, *cells = rows(text)
    assert heads == HEADS
    assert [row[1] for row in cells] == [device.name for device in nvml.devices]
    assert all(len(row) == len(HEADS) for row in cells)
    assert text.splitlines()[2 + len(nvml.devices) :] == list(nvml.problems)


@pytest.mark.gpu
def test_the_stand_in_is_read_fully(nvml: Readings) -> None:
    """Its readings are constants."""
    if "standin" not in (nvml.driver or ""):
        pytest.skip("the driver is real")
    device = nvml.devices[0]
    assert nvml.problems == ()
    assert (device.utilisation_percent, device.temperature_c, device.power_w, device.power_limit_w) == (0, 41, 61, 250)
    assert rows(as_text(nvml))[1][-3:] == ["0", "41", "61 of 250"]
    assert device.memory_total == device.memory_used + device.memory_free  # type: ignore[operator]
    assert device.mig is False


@pytest.mark.gpu
@pytest.mark.parametrize("function", OF_A_DEVICE)
def test_a_reading_that_fails(function: str, nvml: Readings, fail: Callable[..., None]) -> None:
    """The other readings are there, and a line names the call and NVML's reason."""
    fail(function)
    told = read_devices()
    assert len(told.devices) == len(nvml.devices)
    for device, before in zip(told.devices, nvml.devices, strict=True):
        missing = {name for name, value in vars(device).items() if value is None}
        unknown = {name for name, value in vars(before).items() if value is None}
        assert missing == OF_A_DEVICE[function] | unknown
        assert f"{function} of GPU {device.index}: GPU is lost" in told.problems
    text = as_text(told)
    assert all(problem in text.splitlines() for problem in told.problems)
    assert [row[0] for row in rows(text)[1:]] == [str(device.index) for device in nvml.devices]
    assert function in ("nvmlDeviceGetUUID", "nvmlDeviceGetMigMode") or "–" in text  # those two have no column
    assert json.loads(json.dumps(as_dict(told))) == as_dict(told)
    assert not initialised()


@pytest.mark.gpu
@pytest.mark.parametrize("function", OF_THE_DRIVER)
def test_a_version_that_fails(function: str, nvml: Readings, fail: Callable[..., None]) -> None:
    fail(function, status=pynvml.NVML_ERROR_UNKNOWN)
    told = read_devices()
    assert getattr(told, OF_THE_DRIVER[function]) is None
    assert f"{function}: Unknown Error" in as_text(told).splitlines()
    assert "–" in as_text(told).splitlines()[0]
    assert len(rows(as_text(told))) == 1 + len(nvml.devices)


@pytest.mark.gpu
def test_the_count_fails(nvml: Readings, fail: Callable[..., None]) -> None:
    """The driver is still told, and the one reason why there is no table."""
    fail("nvmlDeviceGetCount")
    assert as_text(read_devices()).splitlines() == [
        f"driver {nvml.driver}, CUDA {nvml.cuda}",
        "no NVIDIA GPU was found: nvmlDeviceGetCount: GPU is lost",
    ]
    assert (gpu_names(), free_bytes_by_uuid()) == ([], {})
    assert not initialised()


@pytest.mark.gpu
def test_the_shutdown_fails(nvml: Readings, fail: Callable[..., None]) -> None:
    """After the readings, which stand."""
    fail("nvmlShutdown")
    told = read_devices()
    assert [device.uuid for device in told.devices] == [device.uuid for device in nvml.devices]
    assert told.problems[-1] == "nvmlShutdown: GPU is lost"


@pytest.mark.gpu
def test_the_initialisation_fails(fail: Callable[..., None], capfd: pytest.CaptureFixture[str]) -> None:
    fail("nvmlInit", status=pynvml.NVML_ERROR_DRIVER_NOT_LOADED)
    code, out, err = outcome(capfd, "devices")
    assert (code, out.count("\n"), err) == (0, 1, "")
    assert out.startswith(
        "no NVIDIA GPU was found: nvmlInit: Driver Not Loaded: the NVIDIA driver is installed but not"
    )
    assert (gpu_names(), free_bytes_by_uuid()) == ([], {})


@pytest.mark.gpu
def test_all_readings_fail(nvml: Readings, fail: Callable[..., None]) -> None:
    """A row of dashes for each device, and a line for each call."""
    functions = [*OF_THE_DRIVER, *(name for name in OF_A_DEVICE if name != "nvmlDeviceGetHandleByIndex")]
    fail(*functions, status=pynvml.NVML_ERROR_UNKNOWN)
    told = read_devices()
    assert told.devices == tuple(Reading(index) for index in range(len(nvml.devices)))
    assert len(told.problems) == len(OF_THE_DRIVER) + len(nvml.devices) * (len(OF_A_DEVICE) - 1)
    assert rows(as_text(told))[1] == ["0"] + 8 * ["–"]
    assert gpu_names()[0] == "NVIDIA GPU 0" and free_bytes_by_uuid() == {}


@pytest.mark.gpu
def test_everything_fails(fail: Callable[..., None]) -> None:
    fail(*OF_THE_DRIVER, *OF_A_DEVICE, "nvmlDeviceGetCount", "nvmlShutdown", "nvmlInit")
    assert as_text(read_devices()) == "no NVIDIA GPU was found: nvmlInit: GPU is lost: see `nvidia-smi`"


@pytest.mark.gpu
def test_everything_but_the_initialisation_fails(fail: Callable[..., None]) -> None:
    """The reason comes first, the others below."""
    fail(*OF_THE_DRIVER, *OF_A_DEVICE, "nvmlDeviceGetCount", "nvmlShutdown")
    assert as_text(read_devices()).splitlines() == [
        "no NVIDIA GPU was found: nvmlDeviceGetCount: GPU is lost",
        *(f"{function}: GPU is lost" for function in [*OF_THE_DRIVER, "nvmlShutdown"]),
    ]


@pytest.mark.gpu
def test_a_fork_afterwards_may_use_cuda(nvml: Readings) -> None:
    """CUDA refuses to work in the child of a process that has initialised it."""
    pytest.importorskip("cupy")
    lines = [
        "import os",
        "from gpu_bgstat.backends.devices import read_devices",
        "assert read_devices().devices",
        "child = os.fork()",
        "if child:",
        "    os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))",
        "import cupy",
        "assert cupy.zeros(4, 'u1').get().tolist() == [0, 0, 0, 0]",
    ]
    program = [sys.executable, "-c", "\n".join(lines)]
    done = subprocess.run(program, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr


@pytest.mark.gpu
def test_free_bytes_are_found_by_uuid(nvml: Readings) -> None:
    free = free_bytes_by_uuid()
    assert set(free) == {
        device.uuid for device in nvml.devices if device.memory_free is not None and device.mig is False
    }


@pytest.mark.gpu
def test_the_command_with_a_device(nvml: Readings, capfd: pytest.CaptureFixture[str]) -> None:
    code, out, err = outcome(capfd, "devices")
    assert (code, err) == (0, "") and rows(out)[0] == HEADS and len(rows(out)) == 1 + len(nvml.devices)
    code, out, err = outcome(capfd, "devices", "--json")
    assert (code, err) == (0, "")
    assert [device["uuid"] for device in json.loads(out)["devices"]] == [device.uuid for device in nvml.devices]


def test_each_nvml_function_has_a_test_of_its_failure() -> None:
    called = set(re.findall(r"pynvml\.(nvml\w+)", inspect.getsource(devices)))
    assert called == {*OF_A_DEVICE, *OF_THE_DRIVER, "nvmlDeviceGetCount", "nvmlInit", "nvmlShutdown"}


# --- without a device ----------------------------------------------------------------------------------------------


def test_a_machine_without_nvml(capfd: pytest.CaptureFixture[str]) -> None:
    """The library is really not there: one line says so, and the exit code is 0."""
    try:
        ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        pass
    else:
        pytest.skip("this machine has NVML")
    reason = (
        "nvmlInit: NVML Shared Library Not Found: "
        "the NVIDIA driver is not installed, or this container was not given the GPUs"
    )
    assert read_devices() == Readings(None, None, (), (reason,))
    assert (gpu_names(), free_bytes_by_uuid()) == ([], {})
    assert outcome(capfd, "devices") == (0, f"no NVIDIA GPU was found: {reason}\n", "")
    code, out, err = outcome(capfd, "devices", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out) == {"driver": None, "cuda": None, "devices": [], "problems": [reason]}


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, "NVML Shared Library Not Found: the NVIDIA driver is not installed"),
        (pynvml.NVML_ERROR_DRIVER_NOT_LOADED, "Driver Not Loaded: the NVIDIA driver is installed but not running"),
        (pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH, "RM has detected an NVML/RM version mismatch.: the NVIDIA driver"),
        (pynvml.NVML_ERROR_NO_PERMISSION, "Insufficient Permissions: this user may not open /dev/nvidia*"),
        (pynvml.NVML_ERROR_UNKNOWN, "Unknown Error: see `nvidia-smi`"),
        (4711, "NVML Error with code 4711: see `nvidia-smi`"),
    ],
)
def test_reasons_in_plain_words(status: int, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pynvml, "nvmlInit", raising(pynvml.nvmlInit, status))
    text = as_text(read_devices())
    if status == 4711:  # a library at hand has its own words for an unknown code
        text = text.replace("Unknown Error", "NVML Error with code 4711")
    assert text.startswith(f"no NVIDIA GPU was found: nvmlInit: {words}")
    assert "\n" not in text


@pytest.fixture
def double(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """NVML's answers, by function and device: two GPUs. An int in place of an answer is a status to fail with."""
    answers: dict[str, Any] = {
        "nvmlInit": None,
        "nvmlShutdown": None,
        "nvmlSystemGetDriverVersion": "575.51.03",
        "nvmlSystemGetCudaDriverVersion": {12090},
        "nvmlDeviceGetCount": {2},
        "nvmlDeviceGetUUID": UUIDS,
        "nvmlDeviceGetName": ["NVIDIA H200", "NVIDIA T400"],
        "nvmlDeviceGetCudaComputeCapability": [(9, 0), (7, 5)],
        "nvmlDeviceGetMemoryInfo": [
            SimpleNamespace(total=150 * 10**9, used=125 * 10**7, free=14875 * 10**7),
            SimpleNamespace(total=4 * 10**9, used=10**9, free=3 * 10**9),
        ],
        "nvmlDeviceGetUtilizationRates": [SimpleNamespace(gpu=12, memory=3), SimpleNamespace(gpu=0, memory=0)],
        "nvmlDeviceGetTemperature": [{41}, {38}],
        "nvmlDeviceGetPowerUsage": [{61400}, {9000}],
        "nvmlDeviceGetEnforcedPowerLimit": [{700000}, {31000}],
        "nvmlDeviceGetMigMode": [[0, 0], pynvml.NVML_ERROR_NOT_SUPPORTED],
    }

    def answering(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def answer(*arguments: Any) -> Any:
            told = answers[function.__name__]
            told = told[arguments[0]] if arguments else told
            if isinstance(told, int):
                raise pynvml.NVMLError(told)
            return next(iter(told)) if isinstance(told, set) else told  # a set holds a number that is an answer

        return answer

    for name in answers:
        monkeypatch.setattr(pynvml, name, answering(getattr(pynvml, name)))
    monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByIndex", lambda index: index)
    return answers


def test_two_devices(double: dict[str, Any]) -> None:
    told = read_devices()
    assert told.driver == "575.51.03" and told.cuda == "12.9"
    assert told.devices[0] == full
    assert told.devices[1].mig is False and told.problems == ()  # a T400 has no MIG: that is no problem
    assert gpu_names() == ["NVIDIA H200", "NVIDIA T400"]
    assert free_bytes_by_uuid() == {UUIDS[0]: 148_750_000_000, UUIDS[1]: 3_000_000_000}


def test_bindings_that_return_bytes(double: dict[str, Any]) -> None:
    expected = read_devices()
    for name in ("nvmlDeviceGetUUID", "nvmlDeviceGetName"):
        double[name] = [text.encode() for text in double[name]]
    double["nvmlSystemGetDriverVersion"] = b"575.51.03"
    assert read_devices() == expected


def test_a_name_that_is_no_utf_8(double: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """The binding decodes it, and fails."""

    def nvmlDeviceGetName(_: int) -> str:  # noqa: N802
        return b"\xff".decode()

    monkeypatch.setattr(pynvml, "nvmlDeviceGetName", nvmlDeviceGetName)
    told = read_devices()
    assert told.devices[0].name is None and told.devices[0].uuid == UUIDS[0]
    assert told.problems[0].startswith("nvmlDeviceGetName of GPU 0: 'utf-8' codec can't decode")


def test_mig(double: dict[str, Any]) -> None:
    """No utilisation; the memory is all instances', so it is nobody's free memory."""
    double["nvmlDeviceGetMigMode"][0] = [1, 1]
    double["nvmlDeviceGetUtilizationRates"][0] = pynvml.NVML_ERROR_NOT_SUPPORTED
    told = read_devices()
    assert told.devices[0].mig and told.devices[0].utilisation_percent is None
    assert told.problems == ("nvmlDeviceGetUtilizationRates of GPU 0: Not Supported",)
    assert rows(as_text(told))[1] == ["0", "NVIDIA H200 (MIG)", "9.0", "1.2", "148.8", "150.0", "–", "41", "61 of 700"]
    assert list(free_bytes_by_uuid()) == [UUIDS[1]]


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (pynvml.NVML_ERROR_NOT_SUPPORTED, "Not Supported"),
        (SimpleNamespace(total=0, used=0, free=0), "Not Available: it shares the machine's memory"),
        (SimpleNamespace(total=10**9, used=0, free=2**64 - 1), "Not Available: it shares the machine's memory"),
    ],
)
def test_memory_shared_with_the_machine(answer: Any, reason: str, double: dict[str, Any]) -> None:
    double["nvmlDeviceGetMemoryInfo"][0] = answer
    told = read_devices()
    assert told.problems == (f"nvmlDeviceGetMemoryInfo of GPU 0: {reason}",)
    assert rows(as_text(told))[1] == ["0", "NVIDIA H200", "9.0", "–", "–", "–", "12", "41", "61 of 700"]
    assert list(free_bytes_by_uuid()) == [UUIDS[1]]


def test_a_driver_without_devices(double: dict[str, Any]) -> None:
    double["nvmlDeviceGetCount"] = {0}
    assert as_text(read_devices()).splitlines() == [
        "driver 575.51.03, CUDA 12.9",
        "no NVIDIA GPU was found: the NVIDIA driver runs, but has no device",
    ]


def test_nvml_is_shut_down_when_interrupted(double: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    ended = []

    def interrupted(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pynvml, "nvmlDeviceGetName", interrupted)
    monkeypatch.setattr(pynvml, "nvmlShutdown", lambda: ended.append(True))
    with pytest.raises(KeyboardInterrupt):
        read_devices()
    assert ended == [True]


# --- the table -----------------------------------------------------------------------------------------------------


def test_the_text() -> None:
    """Aligned, without colours, as wide as it must be, also in a terminal of 80 columns."""
    long = "NVIDIA RTX PRO 6000 Blackwell Max-Q Workstation Edition [bold]"
    readings = Readings("575.51.03", "12.9", (full, Reading(1, name=long)), ("nvmlDeviceGetUUID of GPU 1: Timeout",))
    driver, heads, first, second, problem = as_text(readings).splitlines()
    assert driver == "driver 575.51.03, CUDA 12.9" and problem == "nvmlDeviceGetUUID of GPU 1: Timeout"
    assert re.split(r"  +", heads) == HEADS
    assert first.split("  ")[-1] == "61 of 700" and len(first) == len(heads) == len(second)
    assert re.split(r"  +", second.strip()) == ["1", long, *(7 * ["–"])]
    assert heads.index("name") == first.index("NVIDIA") == second.index("NVIDIA")


@pytest.mark.parametrize("columns", ["20", "80"])
def test_the_text_ignores_the_terminal(columns: str, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = as_text(Readings("1", "12.9", (full,), ()))
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert as_text(Readings("1", "12.9", (full,), ())) == expected
    assert "\x1b" not in expected and len(rows(expected)) == 2


@pytest.mark.parametrize(
    ("power_w", "limit_w", "cell"), [(61.4, 700, "61 of 700"), (None, 700, "– of 700"), (61.4, None, "61 of –")]
)
def test_power(power_w: float | None, limit_w: float | None, cell: str) -> None:
    reading = Reading(0, power_w=power_w, power_limit_w=limit_w)
    assert rows(as_text(Readings(None, None, (reading,), ())))[1][-1] == cell


def test_the_json() -> None:
    told = as_dict(Readings("575.51.03", "12.9", (full, Reading(1)), ("a problem",)))
    assert json.loads(json.dumps(told)) == told
    assert list(told) == ["driver", "cuda", "devices", "problems"]
    assert told["devices"][0] == vars(full)
    assert told["devices"][1] == {**dict.fromkeys(vars(full)), "index": 1}
