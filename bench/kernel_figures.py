"""What the compiler makes of the kernels: registers, shared memory, occupancy, instructions per byte. Needs no GPU.

    python bench/kernel_figures.py [--quick] [--arch 80 90] [--designs] [--nvdisasm PATH]

NVRTC compiles each kernel for each architecture, as the package does at run time. Threads and dynamic shared memory a
block are read from the line "Launch:" that opens each file. The table, in Markdown, has these columns:

spilled      bytes of spill stores and loads, as ptxas reports them; or 4 for each STL and LDL instruction, if that is
             more
blocks/SM    what shared memory, registers and threads allow, and which of them allows the least
occupancy    resident threads of those that an SM can hold
instructions machine instructions of a thread for each byte that it loads, in the counting loops: those innermost loops
             whose turn loads the most bytes from global memory. From the label to the branch back, all instructions
             count, skipped ones too; bytes are the widths of the LDG. One figure a loop, in the order of the code:
             a kernel of two passes has two, and a byte costs their sum
atomics      shared-memory atomics of these loops for each byte, counted likewise

The last two need nvdisasm: on PATH, or from `pip install nvidia-cuda-nvdisasm`. These are properties of machine code
and say nothing about time. --quick: one architecture. --designs: also the kernels of bench/designs.
"""

from __future__ import annotations

import argparse
import importlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
KERNELS = ROOT / "kernels"
DESIGNS = ROOT / "bench" / "designs"

REGISTERS = 65536  # an SM's, granted to warps in units of 256
WARP_UNIT = 4  # warps are spread over four schedulers, each with a quarter of the registers


@dataclass(frozen=True)
class Limits:
    """What one SM holds. CUDA C++ Programming Guide, Compute Capabilities: Technical Specifications.

    A block may have all of the shared memory but the reserved bytes, if the launch opts in.
    """

    shared_bytes: int
    threads: int
    blocks: int
    reserved_bytes: int = 1024  # the system's share of each block's shared memory, from 8.0 on


ARCHITECTURES = {
    75: Limits(64 << 10, 1024, 16, 0),
    80: Limits(164 << 10, 2048, 32),
    86: Limits(100 << 10, 1536, 16),
    89: Limits(100 << 10, 1536, 24),
    90: Limits(228 << 10, 2048, 32),
    100: Limits(228 << 10, 2048, 32),
    120: Limits(100 << 10, 1536, 24),
}


@dataclass(frozen=True)
class Loop:
    """One turn of a loop, for one thread."""

    instructions: int
    atomics: int
    bytes: int


@dataclass(frozen=True)
class Figures:
    """One kernel on one architecture. `loops` is None if nvdisasm was not there to tell."""

    name: str
    arch: int
    registers: int
    spilled_bytes: int
    static_bytes: int
    dynamic_bytes: int
    threads: int
    loops: list[Loop] | None

    def allowed(self) -> dict[str, int]:
        """Blocks per SM, as far as each resource allows."""
        limits = ARCHITECTURES[self.arch]
        asked = self.static_bytes + self.dynamic_bytes + limits.reserved_bytes
        shared = _round_up(asked, 256 if self.arch < 80 else 128)
        warps = _round_up(self.threads, 32) // 32
        granted = REGISTERS // _round_up(32 * self.registers, 256) // WARP_UNIT * WARP_UNIT
        return {
            "shared memory": limits.shared_bytes // shared if shared else limits.blocks,
            "threads": limits.threads // (32 * warps),
            "registers": granted // warps,
            "blocks": limits.blocks,
        }

    @property
    def blocks(self) -> int:
        return min(self.allowed().values())

    @property
    def occupancy(self) -> float:
        return self.blocks * self.threads / ARCHITECTURES[self.arch].threads


def _round_up(number: int, unit: int) -> int:
    return -(-number // unit) * unit


def nvrtc() -> Any:
    """CuPy's binding of NVRTC; ImportError says what is missing. Needs no device and no driver."""
    binding = importlib.import_module("cupy_backends.cuda.libs.nvrtc")
    try:
        binding.getVersion()
    except (RuntimeError, OSError) as error:
        raise ImportError(f"NVRTC cannot be loaded: {error}") from error
    return binding


def compile_kernel(path: Path, arch: int, defines: Sequence[str] = ()) -> tuple[bytes, str]:
    """Machine code and ptxas's report; raises RuntimeError with the compiler's words if it does not compile."""
    binding = nvrtc()
    program = binding.createProgram(path.read_text(encoding="utf-8"), path.name, (), ())
    options = (f"--gpu-architecture=sm_{arch}", f"-I{KERNELS}", "-std=c++17", "--ptxas-options=-v", *defines)
    try:
        binding.compileProgram(program, options)
        return binding.getCUBIN(program) + b"\0", binding.getProgramLog(program)  # CuPy drops the last byte, which is 0
    except binding.NVRTCError as error:
        raise RuntimeError(f"{path.name} for sm_{arch}: {error}\n{binding.getProgramLog(program)}") from error
    finally:
        binding.destroyProgram(program)


def find_nvdisasm() -> str | None:
    """From PATH, or from NVIDIA's wheel among this Python's packages."""
    wheels = (found for folder in sys.path for found in Path(folder or ".").glob("nvidia/*/bin/nvdisasm"))
    return shutil.which("nvdisasm") or next((str(path) for path in wheels if os.access(path, os.X_OK)), None)


def disassemble(machine_code: bytes, nvdisasm: str) -> str:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(machine_code)
        file.flush()
        return subprocess.run([nvdisasm, "-c", file.name], capture_output=True, text=True, check=True).stdout


def figures(path: Path, arch: int, nvdisasm: str | None = None, defines: Sequence[str] = ()) -> Figures:
    """Compiles the kernel and reads what the compiler says of it."""
    launch = re.search(r"Launch:.*?(\d+) threads, (\d+) bytes of dynamic", path.read_text(encoding="utf-8"))
    if launch is None:
        raise ValueError(f"{path.name} lacks 'Launch: ... 256 threads, 4096 bytes of dynamic shared memory'")
    machine_code, report = compile_kernel(path, arch, defines)
    used = re.search(r"Used (\d+) registers", report)
    spills = re.findall(r"(\d+) bytes spill (?:stores|loads)", report)
    if used is None or not spills:
        raise RuntimeError(f"{path.name} for sm_{arch}: ptxas reports no registers: {report!r}")
    static = re.search(r"(\d+) bytes smem", report)
    spilled, loops = sum(map(int, spills)), None
    if nvdisasm:
        code = disassemble(machine_code, nvdisasm)
        spilled = max(spilled, 4 * len(re.findall(r"\b(?:STL|LDL)\b", code)))
        loops = counting_loops(code)
    return Figures(
        name=path.stem,
        arch=arch,
        registers=int(used[1]),
        spilled_bytes=spilled,
        static_bytes=int(static[1]) if static else 0,
        dynamic_bytes=int(launch[2]),
        threads=int(launch[1]),
        loops=loops,
    )


def counting_loops(code: str) -> list[Loop]:
    """Of the innermost loops in a disassembly, those whose turn loads the most bytes from global memory."""
    opcodes: list[str] = []
    labels: dict[str, int] = {}
    ends: dict[int, int] = {}  # where a loop starts -> behind its last branch back
    for line in code.splitlines():
        if label := re.match(r"\s*(\.L\w+):", line):
            labels[label[1]] = len(opcodes)
        elif instruction := re.match(r"\s*/\*[0-9a-f]+\*/\s+(?:@!?\w+ )?\s*([A-Z][\w.]*)(.*);", line):
            opcodes.append(instruction[1])
            target = re.search(r"\((\.L\w+)\)", instruction[2])
            start = labels.get(target[1]) if target and instruction[1].startswith("BRA") else None
            if start is not None and start < len(opcodes) - 1:  # a branch to itself pads the end of the code
                ends[start] = len(opcodes)
    inner = [(a, b) for a, b in ends.items() if not any(a < c and d <= b for c, d in ends.items())]
    loops = [_turn(opcodes[start:end]) for start, end in sorted(inner)]
    most = max((loop.bytes for loop in loops), default=0)
    return [loop for loop in loops if loop.bytes == most > 0]


def _turn(opcodes: list[str]) -> Loop:
    def width(opcode: str) -> int:
        sizes = {"U8": 1, "S8": 1, "U16": 2, "S16": 2, "64": 8, "128": 16}
        return next((sizes[part] for part in opcode.split(".") if part in sizes), 4)

    loaded = sum(width(opcode) for opcode in opcodes if opcode.split(".")[0] == "LDG")
    atomics = sum(opcode.split(".")[0] == "ATOMS" for opcode in opcodes)
    return Loop(len(opcodes) - opcodes.count("NOP"), atomics, loaded)


def table(rows: list[Figures]) -> str:
    """Markdown."""
    lines = [
        "| kernel | sm | registers | spilled | shared, static + dynamic | threads | blocks/SM | limited by | occupancy"
        " | instructions | atomics |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        limiting = ", ".join(name for name, blocks in row.allowed().items() if blocks == row.blocks)
        costs = ["?", "?"]  # no nvdisasm
        if row.loops is not None:
            costs[0] = " + ".join(f"{loop.instructions / loop.bytes:.1f}" for loop in row.loops) or "-"
            costs[1] = " + ".join(f"{loop.atomics / loop.bytes:.2g}" for loop in row.loops) or "-"
        lines.append(
            f"| {row.name} | {row.arch} | {row.registers} | {row.spilled_bytes}"
            f" | {row.static_bytes} + {row.dynamic_bytes} | {row.threads} | {row.blocks} | {limiting}"
            f" | {row.occupancy:.0%} | {costs[0]} | {costs[1]} |"
        )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--arch", type=int, nargs="+", choices=ARCHITECTURES, default=list(ARCHITECTURES))
    parser.add_argument("--quick", action="store_true", help="one architecture only")
    parser.add_argument("--designs", action="store_true", help="also the kernels of bench/designs")
    parser.add_argument("--nvdisasm", default=find_nvdisasm(), help="default: from PATH or NVIDIA's wheel")
    options = parser.parse_args(arguments)
    paths = sorted(KERNELS.glob("*.cu")) + (sorted(DESIGNS.glob("*.cu")) if options.designs else [])
    archs = [90] if options.quick else options.arch
    try:
        version = ".".join(map(str, nvrtc().getVersion()))
    except ImportError as error:
        print(f"{error}: pip install 'gpu-bgstat[gpu]'", file=sys.stderr)
        return 1
    disassembler = f"{Path(options.nvdisasm).name} found" if options.nvdisasm else "no nvdisasm"
    print(f"NVRTC {version}, {disassembler}\n")
    print(table([figures(path, arch, options.nvdisasm) for path in paths for arch in archs]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
