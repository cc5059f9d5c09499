"""The readings of the GPUs as a table for people, and as a dict for programs."""

from __future__ import annotations

from dataclasses import asdict
from io import StringIO
from typing import Any

from rich.console import Console
from rich.table import Table

from gpu_bgstat.backends.devices import Reading, Readings

UNKNOWN = "–"
_WIDTH = 1000  # columns, more than any table here needs: nothing is cut or wrapped, also in a pipe
_COLUMNS = (
    "GPU",
    "name",
    "compute capability",
    "used GB",
    "free GB",
    "total GB",
    "utilisation %",
    "temperature °C",
    "power W",
)


def as_dict(readings: Readings) -> dict[str, Any]:
    """What `--json` prints: the fields of Readings, in bytes, °C and W, with null where unknown."""
    return {
        "driver": readings.driver,
        "cuda": readings.cuda,
        "devices": [asdict(device) for device in readings.devices],
        "problems": list(readings.problems),
    }


def as_text(readings: Readings) -> str:
    """Driver and CUDA, one row for each device, and the problems, one on a line.

    driver 575.51.03, CUDA 12.9
    GPU  name         compute capability  used GB  free GB  …
      0  NVIDIA H200                 9.0      0.5    149.8
    """
    lines, problems = [], list(readings.problems)
    if readings.devices or readings.driver or readings.cuda:
        lines.append(f"driver {readings.driver or UNKNOWN}, CUDA {readings.cuda or UNKNOWN}")
    if readings.devices:
        lines += _table(readings.devices)
    else:
        why = [problem for problem in problems if problem.startswith(("nvmlInit", "nvmlDeviceGetCount"))]
        lines.append(f"no NVIDIA GPU was found: {why[0] if why else 'the NVIDIA driver runs, but has no device'}")
        problems = [problem for problem in problems if problem not in why]
    return "\n".join([*lines, *problems])


def _table(devices: tuple[Reading, ...]) -> list[str]:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in _COLUMNS:
        table.add_column(column, justify="left" if column == "name" else "right", no_wrap=True)
    for device in devices:
        table.add_row(*_cells(device))
    drawn = StringIO()
    Console(file=drawn, width=_WIDTH, color_system=None, markup=False, emoji=False, highlight=False).print(table)
    return [line.rstrip() for line in drawn.getvalue().splitlines()]


def _cells(device: Reading) -> tuple[str, ...]:
    """One for each of _COLUMNS."""
    return (
        str(device.index),
        (device.name or UNKNOWN) + (" (MIG)" if device.mig else ""),
        device.compute_capability or UNKNOWN,
        _gb(device.memory_used),
        _gb(device.memory_free),
        _gb(device.memory_total),
        _whole(device.utilisation_percent),
        _whole(device.temperature_c),
        _power(device),
    )


def _power(device: Reading) -> str:
    if device.power_w is None and device.power_limit_w is None:
        return UNKNOWN
    return f"{_whole(device.power_w)} of {_whole(device.power_limit_w)}"


def _gb(size: int | None) -> str:
    return UNKNOWN if size is None else f"{size / 1e9:.1f}"


def _whole(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:.0f}"
