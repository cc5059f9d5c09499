"""One file a kind of input. `open_source` tells by its look what it was given."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

import numpy as np
from natsort import natsorted

from gpu_bgstat.config import Config
from gpu_bgstat.errors import SourceError
from gpu_bgstat.frames import Image
from gpu_bgstat.media import addresses
from gpu_bgstat.media.remote import RemoteFile, is_file
from gpu_bgstat.media.video_file import LocalFile
from gpu_bgstat.sources import images
from gpu_bgstat.sources.arrays import IterableSource, StackSource, load_stack
from gpu_bgstat.sources.camera import CameraSource
from gpu_bgstat.sources.chunked import divided
from gpu_bgstat.sources.hdf5 import SUFFIXES as HDF5_SUFFIXES
from gpu_bgstat.sources.hdf5 import Hdf5Source
from gpu_bgstat.sources.images import ImageSource
from gpu_bgstat.sources.joined import JoinedSource
from gpu_bgstat.sources.source import Source
from gpu_bgstat.sources.tiff import TiffSource, holds_stack
from gpu_bgstat.sources.video import VideoSource
from gpu_bgstat.sources.zarr_store import ZarrSource, is_store

SourceLike = Source | str | Path | Sequence[str] | Sequence[Path] | Image | Iterable[Image]


def open_source(given: SourceLike, config: Config | None = None) -> Source:
    """The source behind a path, a glob, `camera:0`, a URL, a list of paths, an array, or an iterable of frames.

    config  what is wanted of video: bits a sample, grey, and how to decode it; other kinds do not ask
    Raises SourceError if it cannot be opened or holds no frames.
    """
    if isinstance(given, Source):
        return given
    if isinstance(given, np.ndarray):
        return StackSource(given)
    if isinstance(given, str | Path):
        return _open_text(str(given), config)
    if not isinstance(given, Iterable):
        raise SourceError(f"{type(given).__name__} is no source: give a path, an array, or frames")
    if isinstance(given, Sequence) and given and all(isinstance(part, str | Path) for part in given):
        return _open_many([str(part) for part in given], config)
    return IterableSource(cast("Iterable[Image]", given))


def _open_text(text: str, config: Config | None) -> Source:
    text = text.removeprefix("file://")
    if not text:
        raise SourceError("the source has no name: give a path (is a shell variable empty?)")
    if text.startswith("camera:"):
        return CameraSource(text, config)
    if addresses.is_url(text):
        return _open_url(text, config)
    path = Path(text)
    if glob.has_magic(text) and not os.path.lexists(divided(path)[0]):  # a file may really have brackets in its name
        matches: list[str] = natsorted(_matches(text))
        if not matches:
            raise SourceError(f"no file matches {text}")
        return _open_many(matches, config, text)
    return _open_path(path, config)


def _matches(pattern: str) -> list[str]:
    """What a pattern names. `**` does not go through links to folders: two that point upwards would never end."""
    before, found, behind = pattern.partition("**/")
    if not found or (before and not before.endswith("/")):
        return glob.glob(pattern)
    names: list[str] = []
    for root in glob.glob(before) if before else [""]:
        for folder, inner, _ in os.walk(root or "."):
            inner[:] = [name for name in inner if not name.startswith(".")]
            here = Path(folder) if root else Path(folder).relative_to(".")
            names += _matches(str(Path(glob.escape(str(here))) / behind))
    return list(dict.fromkeys(names))


def _open_url(url: str, config: Config | None) -> Source:
    """A file if the server gives parts of it, else a live stream."""
    try:
        live = addresses.is_live(url)
    except ValueError as error:
        raise SourceError(f"{addresses.without_secrets(url)} is no URL ({error}): check the address") from error
    if live:
        return CameraSource(url, config)
    suffix = Path(urlsplit(url).path).suffix.lower()
    if suffix in (*_BY_SUFFIX, *HDF5_SUFFIXES, *images.SUFFIXES, ".zarr"):
        raise SourceError(
            f"{addresses.without_secrets(url)}: of remote files only videos can be read: download it first"
        )
    if urlsplit(url).scheme.lower() in ("http", "https") and not is_file(url):
        return CameraSource(url, config)
    return VideoSource(RemoteFile(url), config)


def _open_many(texts: Sequence[str], config: Config | None, name: str | None = None) -> Source:
    """Single images become one sequence; anything else is joined in order."""
    if any(addresses.is_url(text) for text in texts):
        return _join(texts, config)
    paths = [Path(text) for text in texts]
    for path in paths:
        _check(path)
        if path.suffix.lower() in images.SUFFIXES:
            _check_file(path)
    if len(paths) > 1 and all(path.suffix.lower() in images.SUFFIXES for path in paths):
        return _open_images(name or f"{paths[0]} … {paths[-1]}", paths)
    return _join(texts, config)


def _open_images(name: str, paths: Sequence[Path]) -> Source:
    """One image file is one frame, except that multi-page TIFFs are parts of one recording."""
    if paths[0].suffix.lower() in (".tif", ".tiff") and holds_stack(paths[0]):
        return _join([str(path) for path in paths], None)
    return ImageSource(name, paths)


def _join(texts: Sequence[str], config: Config | None) -> Source:
    with ExitStack() as opened:  # if one cannot be opened, the others are closed
        parts = []
        for text in texts:
            parts.append(_open_url(text, config) if addresses.is_url(text) else _open_path(Path(text), config))
            opened.callback(parts[-1].close)
            if len(texts) > 1:
                parts[-1].rest()
        opened.pop_all()
    return parts[0] if len(parts) == 1 else JoinedSource(parts)


def _check(path: Path) -> None:
    try:
        divided(path)[0].stat()
    except FileNotFoundError:
        raise SourceError(f"{path} does not exist: check the name") from None
    except (OSError, ValueError) as error:  # too long a name, no permission, a null character
        raise SourceError(f"{path} cannot be opened ({getattr(error, 'strerror', error)}): check the name") from error


def _check_file(path: Path) -> None:
    if not path.is_file():
        raise SourceError(f"{path} is no file: give a recording, camera:0, or - for raw frames on standard input")


def _open_path(path: Path, config: Config | None) -> Source:
    _check(path)
    path, inside = divided(path)
    if is_store(path):
        if not path.is_dir():
            _check_file(path)
        return ZarrSource(path, inside)
    suffix = path.suffix.lower()
    if inside and suffix not in HDF5_SUFFIXES:
        raise SourceError(f"{path}::{inside}: only HDF5 files and Zarr stores hold arrays with names; give {path}")
    if path.is_dir():
        return _open_images(str(path), images.in_folder(path))
    _check_file(path)
    if not path.stat().st_size:
        raise SourceError(f"{path} is empty")
    if suffix in HDF5_SUFFIXES:
        return Hdf5Source(path, inside)
    if suffix in _BY_SUFFIX:
        return _BY_SUFFIX[suffix](path)
    if suffix in images.SUFFIXES:
        return ImageSource(str(path), [path])
    return VideoSource(LocalFile(path), config)


_BY_SUFFIX: dict[str, Callable[[Path], Source]] = {
    ".tif": TiffSource,
    ".tiff": TiffSource,
    ".npy": load_stack,
    ".npz": load_stack,
}
