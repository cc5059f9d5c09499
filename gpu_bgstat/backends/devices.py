"""What NVML tells of this machine's GPUs. CUDA is not initialised by it, so a fork afterwards is safe.

NVML numbers the devices by their place on the bus and ignores CUDA_VISIBLE_DEVICES: match them with CUDA's by UUID.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pynvml

_ABSENT = (pynvml.NVML_ERROR_NOT_SUPPORTED, pynvml.NVML_ERROR_FUNCTION_NOT_FOUND)
_NOT_AVAILABLE = 2**64 - 1  # NVML_VALUE_NOT_AVAILABLE
_ADVICE = {
    pynvml.NVML_ERROR_LIBRARY_NOT_FOUND: "the NVIDIA driver is not installed, or this container was not given the GPUs",
    pynvml.NVML_ERROR_DRIVER_NOT_LOADED: "the NVIDIA driver is installed but not running: see `nvidia-smi`, or reboot",
    pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: "the NVIDIA driver was updated and its old version still runs: reboot",
    pynvml.NVML_ERROR_NO_PERMISSION: "this user may not open /dev/nvidia*: see `ls -l /dev/nvidia*`",
}


@dataclass(frozen=True)
class Reading:
    """One device at this moment; None where NVML has no answer, and `Readings.problems` says why."""

    index: int  # in NVML's order
    uuid: str | None = None
    name: str | None = None
    compute_capability: str | None = None  # "9.0"
    memory_total: int | None = None  # bytes; of the whole GPU, also where MIG divides it
    memory_used: int | None = None
    memory_free: int | None = None
    utilisation_percent: int | None = None
    temperature_c: int | None = None
    power_w: float | None = None
    power_limit_w: float | None = None
    mig: bool | None = None  # divided into MIG instances, which have less memory than the GPU and no utilisation


@dataclass(frozen=True)
class Readings:
    """The driver and its devices."""

    driver: str | None  # "575.51.03"
    cuda: str | None  # "12.9", the newest CUDA that the driver can serve
    devices: tuple[Reading, ...]
    problems: tuple[str, ...]  # one line for each NVML call that failed: which, of which GPU, and NVML's reason


def read_devices() -> Readings:
    """All that NVML tells now. No failing NVML call raises: it leaves None in its place and a line in `problems`."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        advice = _ADVICE.get(error.value, "see `nvidia-smi`")
        return Readings(None, None, (), (f"nvmlInit: {error}: {advice}",))
    problems: list[str] = []
    try:
        driver = _ask(problems, "", pynvml.nvmlSystemGetDriverVersion)
        cuda = _ask(problems, "", pynvml.nvmlSystemGetCudaDriverVersion)
        count = _ask(problems, "", pynvml.nvmlDeviceGetCount) or 0
        devices = tuple(_read_device(index, problems) for index in range(count))
    finally:
        _ask(problems, "", pynvml.nvmlShutdown)
    version = None if cuda is None else f"{cuda // 1000}.{cuda % 1000 // 10}"
    return Readings(driver, version, devices, tuple(problems))


def gpu_names() -> list[str]:
    """The names of the NVIDIA GPUs of this machine; empty without a driver or a device."""
    return [device.name or f"NVIDIA GPU {device.index}" for device in read_devices().devices]


def free_bytes_by_uuid() -> dict[str, int]:
    """UUID → free bytes, as far as NVML knows them; empty without NVML.

    A GPU that MIG divides is left out: NVML's figure is of all of it, and a process has one instance.
    """
    return {
        device.uuid: device.memory_free
        for device in read_devices().devices
        if device.uuid is not None and device.memory_free is not None and device.mig is False
    }


def _read_device(index: int, problems: list[str]) -> Reading:
    def ask(function: Callable[..., Any], *arguments: Any, absent: Any = None) -> Any:
        return _ask(problems, f" of GPU {index}", function, *arguments, absent=absent)

    handle = ask(pynvml.nvmlDeviceGetHandleByIndex, index)
    if handle is None:
        return Reading(index)
    capability = ask(pynvml.nvmlDeviceGetCudaComputeCapability, handle)
    memory = ask(pynvml.nvmlDeviceGetMemoryInfo, handle)
    if memory is not None and (not memory.total or _NOT_AVAILABLE in (memory.total, memory.used, memory.free)):
        problems.append(f"nvmlDeviceGetMemoryInfo of GPU {index}: Not Available: it shares the machine's memory")
        memory = None
    rates = ask(pynvml.nvmlDeviceGetUtilizationRates, handle)
    power_mw = ask(pynvml.nvmlDeviceGetPowerUsage, handle)
    limit_mw = ask(pynvml.nvmlDeviceGetEnforcedPowerLimit, handle)
    mig = ask(pynvml.nvmlDeviceGetMigMode, handle, absent=(0, 0))  # (now, after a reset)
    return Reading(
        index,
        uuid=ask(pynvml.nvmlDeviceGetUUID, handle),
        name=ask(pynvml.nvmlDeviceGetName, handle),
        compute_capability=None if capability is None else "{}.{}".format(*capability),
        memory_total=None if memory is None else memory.total,
        memory_used=None if memory is None else memory.used,
        memory_free=None if memory is None else memory.free,
        utilisation_percent=None if rates is None else rates.gpu,
        temperature_c=ask(pynvml.nvmlDeviceGetTemperature, handle, pynvml.NVML_TEMPERATURE_GPU),
        power_w=None if power_mw is None else power_mw / 1000,
        power_limit_w=None if limit_mw is None else limit_mw / 1000,
        mig=None if mig is None else bool(mig[0]),
    )


def _ask(problems: list[str], where: str, function: Callable[..., Any], *arguments: Any, absent: Any = None) -> Any:
    """NVML's answer, or None and a line in `problems`; `absent` where the GPU or the driver has no such thing."""
    try:
        answer = function(*arguments)
        return answer.decode(errors="replace") if isinstance(answer, bytes) else answer
    except (pynvml.NVMLError, UnicodeDecodeError) as error:  # pynvml decodes names
        if absent is not None and getattr(error, "value", None) in _ABSENT:
            return absent
        problems.append(f"{function.__name__}{where}: {error}")
        return None
