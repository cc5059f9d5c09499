"""Whether the GPU path can be trusted on this machine: missing pieces, results against the CPU, and rates."""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np

from gpu_bgstat.backends import trial
from gpu_bgstat.backends.checkup import ENGINES, Finding, compare, operations, pieces, rates, whole_path
from gpu_bgstat.backends.cuda import Gpu
from gpu_bgstat.backends.gpu import chosen
from gpu_bgstat.errors import DeviceError

_RATE_BYTES = 1 << 28


def examine(device: str) -> Iterator[Finding]:
    """Looks at everything in turn; `device` as in Config. What cannot be looked at is a finding, too."""
    yield from pieces()
    absent = trial.missing()
    if absent:
        yield absent
    try:
        gpus = chosen("gpu:all" if device == "auto" else device)
    except DeviceError as error:
        yield Finding("devices", False, f"{error}: see `gpu-bgstat devices`")
        return
    for gpu in sorted(gpus, key=lambda gpu: gpu.index):
        yield from _examine_one(gpu, decodes=absent is None)


def _examine_one(gpu: Gpu, decodes: bool) -> Iterator[Finding]:
    yield Finding(f"gpu:{gpu.index}", True, f"{gpu.name}, compute capability {gpu.compute_capability}")
    seed = int.from_bytes(os.urandom(4), "little")
    try:
        for engine in ENGINES:
            for dtype in (np.uint8, np.uint16):
                yield compare(gpu.index, engine, dtype, seed)
        for dtype in (np.uint8, np.uint16):
            yield operations(gpu, dtype, seed)
        yield from whole_path(gpu, seed)
        if decodes:
            yield from trial.findings(gpu.index)
        size = min(_RATE_BYTES, gpu.free_bytes // 8)
        measured = rates(gpu.index, size)
    except DeviceError as error:
        yield Finding(f"gpu:{gpu.index}", False, str(error))
        return
    yield Finding(
        "rates",
        True,
        f"upload {measured.upload:.1f} GB/s, copy on the device {measured.copy:.0f} GB/s, "
        f"reduction {measured.reduction:.0f} GB/s of samples: {100 * measured.share:.0f} % of the copy",
    )


def verdict(findings: list[Finding]) -> str:
    """One line in plain words."""
    bad = [finding.name for finding in findings if not finding.well]
    if bad:
        return f"The GPU path cannot be trusted here ({', '.join(dict.fromkeys(bad))}): use --device cpu until then."
    return "The GPU path can be trusted here: its results equal the CPU's, bit for bit."
