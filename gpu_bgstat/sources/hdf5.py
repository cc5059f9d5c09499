"""One dataset of an HDF5 file (h5py): (T, H, W) is grey, (T, H, W, 3) BGR. Only sampled frames are read."""

from __future__ import annotations

import importlib
import itertools
from contextlib import ExitStack, suppress
from functools import cached_property
from pathlib import Path
from typing import Any

from gpu_bgstat.errors import SourceError
from gpu_bgstat.frames import Image
from gpu_bgstat.sources.chunked import DAMAGE, ChunkedSource, axes_of, may_be_stack, only

SUFFIXES = frozenset([".h5", ".hdf5", ".hdf"])


class Hdf5Source(ChunkedSource):
    """The dataset named `inside`, or the only one that can be a stack."""

    def __init__(self, path: Path, inside: str = "") -> None:
        h5py = _h5py(path)
        name = f"{path}::/{inside}" if inside else str(path)
        with ExitStack() as opened:
            try:
                file = opened.enter_context(h5py.File(path, "r"))
            except DAMAGE as error:
                raise SourceError(f"{path} is no HDF5 file that can be read ({error}): is it whole?") from error
            try:
                self._dataset = _dataset(h5py, file, inside, name)
                _check_filters(h5py, self._dataset, name)
                _check_written(h5py, self._dataset, name)
            except DAMAGE as error:
                raise SourceError(f"{name} cannot be read ({error}): is the file whole?") from error
            super().__init__(name, self._dataset, axes_of(name, self._dataset), "hdf5", self._dataset.name)
            self.files = [path]
            self._opened = opened.pop_all()

    def _fetch(self, indices: list[int]) -> tuple[Image, float]:
        steps = {later - index for index, later in itertools.pairwise(indices)}
        if len(steps) > 1:
            block = self._dataset[indices]
        else:  # HDF5 is much faster with an even selection than with a list
            block = self._dataset[indices[0] : indices[-1] + 1 : steps.pop() if steps else 1]
        return block, self._absent(indices[0], block)

    def _absent(self, index: int, block: Image) -> float:
        """The share of the frame's chunks that were never written.

        HDF5 finds a chunk by walking its index, so it is asked only where all values are the fill value.
        """
        chunks, fill = self._dataset.chunks, self._dataset.fillvalue
        if chunks is None:
            return 0.0
        corners = list(itertools.product(*map(range, itertools.repeat(0), block.shape[1:], chunks[1:])))
        absent = 0
        for corner in corners:
            part = block[(slice(None), *(slice(a, a + size) for a, size in zip(corner, chunks[1:], strict=True)))]
            if part.flat[0] == fill and (part == fill).all():
                absent += (index // chunks[0] * chunks[0], *corner) not in self._stored
        return absent / len(corners)

    @cached_property
    def _stored(self) -> set[tuple[int, ...]]:
        """Where the chunks begin that were written."""
        found: set[tuple[int, ...]] = set()
        self._dataset.id.chunk_iter(lambda chunk: found.add(chunk.chunk_offset))
        return found

    def close(self) -> None:
        self._opened.close()


def _h5py(path: Path) -> Any:
    try:
        return importlib.import_module("h5py")  # only where such a file is read
    except ImportError as error:
        raise SourceError(f"{path} needs h5py, which is not here: pip install 'gpu-bgstat[hdf5]'") from error


def _dataset(h5py: Any, file: Any, inside: str, name: str) -> Any:
    found = file
    if inside:
        found = file.get(inside)
        if found is None:
            raise SourceError(f"{name} is not in the file, which holds {', '.join(file) or 'nothing'}: check the name")
    if isinstance(found, h5py.Dataset):
        return found
    if not isinstance(found, h5py.Group):
        raise SourceError(f"{name} is a type, no dataset: name a dataset")
    candidates: list[str] = []

    def note(_: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and may_be_stack(item):
            candidates.append(item.name)

    found.visititems(note)
    return file[only(name, candidates)]


def _check_filters(h5py: Any, dataset: Any, name: str) -> None:
    """Raises SourceError if chunks are packed in a way that is not here; hdf5plugin brings many when it is imported."""
    pipeline = dataset.id.get_create_plist()
    for number in range(pipeline.get_nfilters()):
        code, _, _, title = pipeline.get_filter(number)
        if not h5py.h5z.filter_avail(code):
            with suppress(ImportError):
                importlib.import_module("hdf5plugin")
        if not h5py.h5z.filter_avail(code):
            told = title.decode(errors="replace") or "of no name"
            raise SourceError(f"{name} is packed by filter {code} ({told}), which is not here: pip install hdf5plugin")


def _check_written(h5py: Any, dataset: Any, name: str) -> None:
    """HDF5 gives zeros for a dataset that was made and never filled; external and virtual ones lie in other files."""
    layout = dataset.id.get_create_plist().get_layout()
    if layout == h5py.h5d.CONTIGUOUS and dataset.external is None and dataset.id.get_offset() is None:
        raise SourceError(f"{name} was made, and no frame was ever written to it: give the file with the pictures")
