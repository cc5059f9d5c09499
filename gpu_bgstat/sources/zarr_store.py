"""One array of a Zarr store, format 2 or 3, folder or .zarr.zip (zarr): only the chunks of sampled frames are read.

(T, H, W) is grey, (T, H, W, 3) BGR. Of an OME-Zarr image, the first resolution is the stack, and its axes may have
any order.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from gpu_bgstat.errors import SourceError
from gpu_bgstat.frames import Image
from gpu_bgstat.sources.chunked import DAMAGE, ChunkedSource, axes_of, may_be_stack, only

_INSTALL = "pip install 'gpu-bgstat[zarr]'"
_METADATA = ("zarr.json", ".zarray", ".zgroup")


class ZarrSource(ChunkedSource):
    """The array or image named `inside`, or the only one that can be a stack."""

    def __init__(self, path: Path, inside: str = "") -> None:
        zarr = _zarr(path)
        name = f"{path}::{inside}" if inside else str(path)
        self._asked = [0, 0]  # keys that were asked for, and those of them that are not stored
        with ExitStack() as opened:
            try:
                self._store = _noting(zarr, path, self._asked)
                opened.callback(self.close)
                self._array, axes = _find(zarr, zarr.open(self._store, path=inside, mode="r"), name)
            except DAMAGE as error:
                raise SourceError(f"{name} is no Zarr array or group that can be read ({error})") from error
            super().__init__(name, self._array, axes, "zarr", self._array.path)
            self.files = [path]
            opened.pop_all()

    def _fetch(self, indices: list[int]) -> tuple[Image, float]:
        selection = tuple(indices if axis == "T" else slice(None) for axis in self._axes)
        self._asked[:] = 0, 0
        block: Image = self._array.get_orthogonal_selection(selection)
        asked, absent = self._asked
        return block, absent / max(1, asked)

    def close(self) -> None:
        with suppress(AttributeError):  # of a zip store that could not even be opened
            self._store.close()


def is_store(path: Path) -> bool:
    """Whether a path is a Zarr store, by its name or by the metadata in it."""
    if path.is_dir():
        return path.suffix.lower() == ".zarr" or any((path / name).is_file() for name in _METADATA)
    return path.name.lower().endswith(".zarr.zip")


def _zarr(path: Path) -> Any:
    try:
        zarr = importlib.import_module("zarr")  # a third of a second, and only where a store is read
    except ImportError as error:
        raise SourceError(f"{path} needs zarr 3, which is not here: {_INSTALL}") from error
    if not hasattr(zarr.storage, "WrapperStore"):
        raise SourceError(f"{path} needs zarr 3, and {zarr.__version__} is here: {_INSTALL}")
    return zarr


def _noting(zarr: Any, path: Path, asked: list[int]) -> Any:
    """The store, which counts in `asked` what is read from it: zarr itself fills a missing chunk without a word."""

    class Noting(zarr.storage.WrapperStore):  # type: ignore[misc]
        async def get(self, key: str, *arguments: Any, **options: Any) -> Any:
            file = path / key
            if path.is_dir() and file.exists() and not file.is_file():  # a named pipe would be waited for
                raise ValueError(f"{file} is no file")
            got = await super().get(key, *arguments, **options)
            asked[0] += 1
            asked[1] += got is None
            return got

    if path.is_dir():
        return Noting(zarr.storage.LocalStore(path, read_only=True))
    return Noting(zarr.storage.ZipStore(path, mode="r"))


def _find(zarr: Any, node: Any, name: str) -> tuple[Any, str]:
    """The array, and its axes; raises SourceError if there is none, or a choice."""
    if isinstance(node, zarr.Array):
        return node, axes_of(name, node)
    if image := _image(node):
        array = node[image["datasets"][0]["path"]]
        return array, _ome_axes(name, image.get("axes"), array.shape)
    members = dict(node.members(max_depth=None))
    images = [path for path, member in members.items() if isinstance(member, zarr.Group) and _image(member)]
    stacks = [path for path, member in members.items() if isinstance(member, zarr.Array) and may_be_stack(member)]
    chosen = only(
        name, [path for path in images + stacks if not path.startswith(tuple(f"{image}/" for image in images))]
    )
    return _find(zarr, members[chosen], name)


def _image(group: Any) -> dict[str, Any] | None:
    """What OME-Zarr notes about the image in a group; None if there is none."""
    noted = group.attrs.get("ome", group.attrs).get("multiscales")
    return noted[0] if noted else None


def _ome_axes(name: str, named: Sequence[str | Mapping[str, str]] | None, shape: tuple[int, ...]) -> str:
    """One letter a dimension. Time is t, or else z, which often stands for it; channels are 3 colours, or 1.

    Raises SourceError if the image runs over more than that. Versions before 0.3 have five axes and name none.
    """
    given = "".join((axis if isinstance(axis, str) else axis["name"])[0] for axis in named or "tczyx").upper()
    if len(given) != len(shape) or len({*given}) != len(shape) or not {"Y", "X"} <= {*given}:
        raise SourceError(f"{name} has axes {given} and shape {shape}: an image has y, x and t, each once")
    sizes = dict(zip(given, shape, strict=True))
    time = "T" if sizes.get("T", 1) > 1 or sizes.get("Z", 1) == 1 else "Z"
    if time not in sizes:
        raise SourceError(f"{name} has axes {given} of {shape}: it is one frame, and a recording has many")
    names = {"C": "channels", "Z": "planes"}
    colours = {"C": (1, 3)}
    others = [
        f"{size} {names.get(axis, axis)}"
        for axis, size in sizes.items()
        if axis not in (time, "Y", "X") and size not in colours.get(axis, (1,))
    ]
    if others:
        raise SourceError(
            f"{name} has axes {given} of {shape}: {' and '.join(others)} are no time points; "
            "save one channel and one plane as a stack of its own"
        )
    return given if time == "T" else given.replace("T", "z").replace("Z", "T")
