"""The kernels' machine code, on every architecture that they are meant for: no spills, and registers within a budget.

Needs NVRTC, but no device: bench/kernel_figures.py compiles and reads what the compiler reports.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
BENCH = ROOT / "bench" / "kernel_figures.py"
SOURCES = sorted((ROOT / "kernels").glob("*.cu"))
DESIGNS = sorted((ROOT / "bench" / "designs").glob("*.cu"))
ARCHITECTURES = (75, 80, 86, 89, 90, 100, 120)

# The register budget, as blocks per SM that the registers must leave room for: {kernel: {architecture: blocks}}.
# u8: all threads of an SM, or the one block that shared memory has room for. u16: what shared memory has room for, but
# on 80, 90 and 100, where a fourth block of 512 threads would leave 32 registers and spill. nv12_bgr: all threads.
# chosen: 64 registers a thread, and what shared memory has room for. support: all threads, or 40 registers.
BLOCKS = {
    "chosen": {75: 1, 80: 2, 86: 2, 89: 2, 90: 2, 100: 2, 120: 2},
    "nv12_bgr": {75: 4, 80: 8, 86: 6, 89: 6, 90: 8, 100: 8, 120: 6},
    "statistics_u8": {75: 1, 80: 2, 86: 1, 89: 1, 90: 2, 100: 2, 120: 1},
    "statistics_u16": {75: 1, 80: 3, 86: 2, 89: 2, 90: 3, 100: 3, 120: 2},
    "support": {75: 2, 80: 4, 86: 3, 89: 3, 90: 4, 100: 3, 120: 3},
}

# All variants that the package compiles, and the blocks per SM that the registers of each must leave room for, on
# architectures where the plain kernel has room for as many.
VARIANTS = {
    ("chosen", "READERS=16"): 2,
    ("statistics_u8", "ROWS=1"): 2,
    ("statistics_u8", "LIGHT=1"): 2,
    ("statistics_u8", "ROWS=1 LIGHT=1"): 1,
    ("statistics_u8", "CHOSEN=1"): 1,
    ("statistics_u8", "CHOSEN=1 LIGHT=1"): 1,
    ("statistics_u8", "MODE=1"): 2,
    ("statistics_u8", "MODE=1 LIGHT=1"): 2,
    ("statistics_u16", "ROWS=1"): 3,
    ("statistics_u16", "LIGHT=1"): 2,
    ("statistics_u16", "ROWS=1 LIGHT=1"): 2,
    ("statistics_u16", "CHOSEN=1"): 2,
    ("statistics_u16", "CHOSEN=1 LIGHT=1"): 2,
    ("support", "LIGHT=1"): 2,
    ("support", "WIDE=1"): 4,
    ("support", "WIDE=1 LIGHT=1"): 2,
}

pytestmark = pytest.mark.nvrtc


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def bench() -> Any:
    """bench/kernel_figures.py; skips without NVRTC, or fails where BGSTAT_REQUIRE_GPU=1."""
    module = load(BENCH)
    try:
        module.nvrtc()
    except ImportError as error:
        reason = f"no NVRTC to compile with ({error}): pip install 'gpu-bgstat[gpu]'"
        if os.environ.get("BGSTAT_REQUIRE_GPU") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    return module


def test_every_kernel_and_architecture_has_a_budget(bench: Any) -> None:
    assert sorted(BLOCKS) == [path.stem for path in SOURCES]
    assert tuple(bench.ARCHITECTURES) == ARCHITECTURES
    assert all(tuple(blocks) == ARCHITECTURES for blocks in BLOCKS.values())


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_no_spills_and_registers_within_the_budget(bench: Any, path: Path, arch: int) -> None:
    figures = bench.figures(path, arch, bench.find_nvdisasm())
    blocks = BLOCKS[path.stem][arch]
    assert figures.spilled_bytes == 0
    assert figures.allowed()["registers"] >= blocks, (
        f"{figures.registers} registers; {blocks} blocks of {figures.threads} threads have"
        f" {bench.REGISTERS // (blocks * figures.threads) // 8 * 8} each"
    )
    assert figures.blocks >= blocks


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("kernel, defines", VARIANTS)
def test_no_variant_spills(bench: Any, kernel: str, defines: str, arch: int) -> None:
    path = ROOT / "kernels" / f"{kernel}.cu"
    figures = bench.figures(path, arch, bench.find_nvdisasm(), [f"-D{define}" for define in defines.split()])
    assert figures.spilled_bytes == 0
    assert figures.allowed()["registers"] >= min(BLOCKS[kernel][arch], VARIANTS[kernel, defines])


@pytest.mark.parametrize("path", DESIGNS, ids=lambda path: path.stem)
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_the_designs_for_comparison_compile(bench: Any, path: Path, arch: int) -> None:
    assert bench.figures(path, arch).blocks >= 1


GREEDY = """
// Launch: 1024 threads, 0 bytes of dynamic shared memory.
extern "C" __global__ void __launch_bounds__(1024, 2) greedy(const float* x, float* y)
{
    float many[64];
#pragma unroll
    for (int k = 0; k < 64; ++k) many[k] = x[k * 1024 + threadIdx.x];
    __syncthreads();
#pragma unroll
    for (int k = 0; k < 64; ++k) y[k * 1024 + threadIdx.x] = many[k] * many[63 - k];
}
"""


def test_spills_are_seen_where_there_are_some(bench: Any, tmp_path: Path) -> None:
    """64 numbers in the 32 registers that two blocks of 1024 threads leave."""
    path = tmp_path / "greedy.cu"
    path.write_text(GREEDY, encoding="utf-8")
    assert bench.figures(path, 90).spilled_bytes > 0
    if nvdisasm := bench.find_nvdisasm():
        assert "STL" in bench.disassemble(bench.compile_kernel(path, 90)[0], nvdisasm)


@pytest.mark.parametrize(
    ("arch", "registers", "shared_bytes", "threads", "blocks"),
    [
        (90, 128, 0, 512, 1),  # 65536 / (128 * 512)
        (90, 72, 0, 512, 1),  # 28 warps of 72 registers fit: one block of 16, not two
        (90, 40, 65536, 512, 3),  # 228 KB / (64 + 1) KB
        (75, 32, 65536, 512, 1),  # all of 64 KB; nothing is reserved
        (80, 32, 0, 1024, 2),  # 2048 threads
        (86, 16, 0, 32, 16),  # the most blocks that an SM has
    ],
)
def test_blocks_per_sm(bench: Any, arch: int, registers: int, shared_bytes: int, threads: int, blocks: int) -> None:
    """By hand from the limits in the CUDA C++ Programming Guide."""
    assert bench.Figures("any", arch, registers, 0, 0, shared_bytes, threads, None).blocks == blocks


def test_the_command_prints_a_row_for_each_kernel(bench: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main(["--quick", "--designs"]) == 0
    printed = capsys.readouterr().out
    assert all(f"| {path.stem} | 90 |" in printed for path in SOURCES + DESIGNS)
