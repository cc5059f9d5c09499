"""The GPU: where the samples lie is planned from free memory, and each device reduces its rows of the frames.

frame ──► Part on gpu:0 ──► rows of the results
      └─► Part on gpu:1 ──► …
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from threading import Event

import numpy as np
from numpy.typing import NDArray

from gpu_bgstat.backends.backend import Backend, Choice, Light, Reduced, Store
from gpu_bgstat.backends.cuda import Gpu, OutOfDeviceMemoryError, driver_free_bytes, visible
from gpu_bgstat.backends.kernels import KernelError, Kernels
from gpu_bgstat.backends.lanes import Part
from gpu_bgstat.backends.memory import size_text
from gpu_bgstat.backends.operations import Chosen, Engine, Modes, Operation, Selection, Support
from gpu_bgstat.backends.placement import Placement, Share, placements
from gpu_bgstat.backends.plain import Plain
from gpu_bgstat.backends.room import ANYWHERE, Room
from gpu_bgstat.backends.scratch import Layout, Scratch
from gpu_bgstat.errors import DeviceError
from gpu_bgstat.frames import FrameSpec, Image

_LOG = logging.getLogger("gpu_bgstat")


class GpuStore:
    """The ring's block on one device or more."""

    def __init__(self, spec: FrameSpec, placement: Placement, name: str, room: Room = ANYWHERE) -> None:
        """Allocates everything; raises OutOfDeviceMemoryError, with nothing left allocated, if it does not fit."""
        self.name = name
        self._spec = spec
        self._scratch: Scratch | None = None
        self._shares = placement.shares
        self._parts: list[Part] = []
        self._harm = ""
        try:
            if placement.kind == "file":
                self._scratch = room.scratch(placement.shares[0].slots, spec)
            for share in placement.shares:
                self._parts.append(Part(share, _engine(share.device, spec), self._scratch))
        except BaseException:
            self.close()
            raise

    def put(self, slot: int, frame: Image) -> None:
        with self._unharmed():
            for place in self._places:
                place.put(slot, frame)

    def move(self, source: int, target: int) -> None:
        with self._unharmed():
            for place in self._places:
                place.move(source, target)

    @property
    def _places(self) -> Sequence[Part | Scratch]:
        """Where samples go: to the devices, or into the file, from which the devices get them at finalize."""
        return self._parts if self._scratch is None else [self._scratch]

    @property
    def file(self) -> str:
        """Which file holds the samples, to go on behind the plan; empty if none does."""
        return _file(self._scratch.where, self._scratch.layout) if self._scratch else ""

    def sync(self) -> None:
        if self._scratch is not None:
            self._scratch.sync()

    @contextmanager
    def _unharmed(self, harmful: type[BaseException] = BaseException) -> Iterator[None]:
        """After a failure nobody knows what the ring holds: nothing is put into it or made of it any more.

        harmful  what counts as one; while samples are put or moved, Ctrl-C does
        """
        if self._harm:
            raise DeviceError(f"the samples are lost since an earlier failure ({self._harm}): start anew")
        try:
            yield
        except harmful as error:
            self._harm = str(error) or type(error).__name__
            raise

    def reduce(
        self, count: int, ranks: Sequence[int], light: Light | None = None, slots: Sequence[int] | None = None
    ) -> Reduced:
        wanted = sorted(set(ranks))
        variance = np.empty(self._spec.shape, np.float32)
        order = np.empty((len(wanted), *self._spec.shape), self._spec.dtype)
        self._everywhere(
            lambda part, share, stopped: part.reduce(
                Chosen(share, count if slots is None else slots, light),
                wanted,
                (_of_share(variance, share), _of_share(order, share, len(wanted))),
                stopped,
            )
        )
        return Reduced(variance, order[[wanted.index(rank) for rank in ranks]])

    def select(self, count: int, choice: Choice, light: Light | None = None) -> Image:
        out = np.empty((2, *self._spec.shape), self._spec.dtype)
        self._run(count, light, lambda chosen: Selection(chosen, choice, _of_share(out, chosen.share, 2)))
        return out

    def support(self, count: int, image: Image, tolerance: int, light: Light | None = None) -> NDArray[np.uint16]:
        out = np.empty(self._spec.shape, np.uint16)
        image = np.ascontiguousarray(image, self._spec.dtype)
        self._run(
            *(count, light),
            lambda chosen: Support(chosen, _of_share(image, chosen.share), tolerance, _of_share(out, chosen.share)),
        )
        return out

    def modes(self, count: int, width: int, light: Light | None = None) -> Image:
        out = np.empty(self._spec.shape, self._spec.dtype)
        self._run(count, light, lambda chosen: Modes(chosen, width, _of_share(out, chosen.share)))
        return out

    def _run(self, count: int, light: Light | None, made: Callable[[Chosen], Operation]) -> None:
        """Does an operation on all devices."""
        self._everywhere(lambda part, share, stopped: part.run(made(Chosen(share, count, light)), stopped))

    def _everywhere(self, do: Callable[[Part, Share, Event], None]) -> None:
        """On all devices side by side; what fails on one stops the others."""
        stopped = Event()
        with self._unharmed(DeviceError), ThreadPoolExecutor(len(self._parts), thread_name_prefix="bgstat-gpu") as pool:
            tasks = [
                pool.submit(do, part, share, stopped) for part, share in zip(self._parts, self._shares, strict=True)
            ]
            try:
                for task in tasks:
                    task.result()
            except BaseException:  # Ctrl-C, too, waits for one chunk only
                stopped.set()
                raise

    def close(self) -> None:
        for part in self._parts:
            part.close()
        self._parts.clear()
        if self._scratch is not None:
            self._scratch.close()


def _of_share(image: Image, share: Share, layers: int | None = None) -> Image:
    """A view of a share's values in an image (H, W[, 3]), or in several: (V,), or (layers, V)."""
    rows = slice(share.rows.start, share.rows.stop)
    return image[rows].reshape(-1) if layers is None else image[:, rows].reshape(layers, share.values)


def _engine(device: int, spec: FrameSpec) -> Engine:
    """The kernels; CuPy's own operations, and one line about it, where they cannot be compiled."""
    try:
        return Kernels(device, spec.dtype)
    except KernelError as error:
        _LOG.warning("%s; until then CuPy's own operations reduce, more slowly", error)
        return Plain(device, spec.dtype)


class GpuBackend:
    """One device, or several in order of preference."""

    def __init__(self, gpus: Sequence[Gpu], why: str, fallback: Backend | None = None) -> None:
        """`fallback` takes over, and is announced, where no plan fits."""
        self.why = why
        self._gpus = list(gpus)
        self._fallback = fallback

    def placements(self, slots: int, spec: FrameSpec, room: Room = ANYWHERE) -> Iterator[Placement]:
        """The plans that fit now, best first. Devices beyond the first are looked at only when it is not enough."""
        host, kept = room.memory_bytes, room.kept is not None
        first = _measured(self._gpus[0])
        alone = placements(spec, slots, _free([first]), host, kept)
        if len(self._gpus) == 1:
            yield from alone
            return
        yield from (plan for plan in alone if plan.kind == "ring")
        everyone = [first, *map(_measured, self._gpus[1:])]
        yield from (plan for plan in placements(spec, slots, _free(everyone), host, kept) if plan.kind != "ring")

    def forecast(self, slots: int, spec: FrameSpec, room: Room = ANYWHERE) -> str:
        plan = next(self.placements(slots, spec, room), None)
        if plan:
            layout = Layout(slots, spec)
            return f"{plan}{_file(room.place(layout.bytes), layout)}" if plan.kind == "file" else str(plan)
        refusal = self._too_small(slots, spec)
        return f"cpu, because {refusal}: {self._fallback.forecast(slots, spec, room)}" if self._fallback else refusal

    def store(self, slots: int, spec: FrameSpec, room: Room = ANYWHERE) -> Store:
        """The best plan whose allocations succeed; else the fallback, with one line that says why."""
        try:
            return self._allocate(slots, spec, room)
        except DeviceError as error:
            if self._fallback is None:
                raise
            _LOG.warning("device: cpu, because %s", error)
            return self._fallback.store(slots, spec, room)

    def _allocate(self, slots: int, spec: FrameSpec, room: Room = ANYWHERE) -> GpuStore:
        reason = ""
        for placement in self.placements(slots, spec, room):
            try:
                store = GpuStore(spec, placement, self._name(placement), room)
            except OutOfDeviceMemoryError as error:
                reason = f" ({error})"
                _LOG.warning("no memory for %s (%s): trying the next smaller plan", placement, error)
            else:
                _LOG.info("samples: %s%s", placement, store.file)
                return store
        raise DeviceError(self._too_small(slots, spec) + reason)

    def _name(self, placement: Placement) -> str:
        used = {share.device for share in placement.shares}
        return " + ".join(str(gpu) for gpu in self._gpus if gpu.index in used) + f", {placement.kind}"

    def _too_small(self, slots: int, spec: FrameSpec) -> str:
        free = ", ".join(f"{gpu} has {size_text(gpu.free_bytes)} free" for gpu in self._gpus)
        return (
            f"too little memory for {slots} samples of {spec}, {size_text(slots * spec.bytes)}, in any way: {free}; "
            "lower max_samples, or use gray or a roi"
        )


def _file(where: object, layout: Layout) -> str:
    """How a plan with a file goes on."""
    return f"; the file is in {where}, {size_text(layout.bytes)}"


def _measured(gpu: Gpu) -> Gpu:
    """With what both NVML and the driver agree to be free."""
    return replace(gpu, free_bytes=min(gpu.free_bytes, driver_free_bytes(gpu.index)))


def _free(gpus: Sequence[Gpu]) -> list[tuple[int, int]]:
    return [(gpu.index, gpu.free_bytes) for gpu in gpus]


def chosen(device: str) -> list[Gpu]:
    """The devices that "gpu", "gpu:all", "gpu:1" or "gpu:0,1" names; raises DeviceError if one is not there."""
    there = visible()
    _, _, numbers = device.partition(":")
    if numbers in ("", "all"):
        return there
    wanted = {int(number) for number in numbers.split(",")}
    if missing := wanted - {gpu.index for gpu in there}:
        names = ", ".join(str(gpu) for gpu in sorted(there, key=lambda gpu: gpu.index))
        raise DeviceError(f"device={device}: there is no gpu:{min(missing)}; there is {names}")
    return [gpu for gpu in there if gpu.index in wanted]
