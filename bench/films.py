"""What backgrounds are scored on: the synthetic scenes, and real recordings with a reference."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from backgrounds import Film, Frames
from natsort import natsorted
from scenes import Scene


def of_scene(scene: Scene, folder: Path) -> Film:
    """The scene, and in the folder an uncompressed video of it: our methods read that, with its times, as any other."""
    path = folder / f"{scene.name}-{scene.seed}.avi"
    frames = np.stack(list(scene.frames()))
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("rawvideo", rate=Fraction(scene.fps))
        stream.width, stream.height, stream.pix_fmt = scene.width, scene.height, "bgr24"
        for pixels in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="bgr24")))
        container.mux(stream.encode())
    return Film(scene.name, frames, scene.every, scene.truths[0], path, scene.seed, *scene.truths[1:])


def hall(folder: Path) -> Film | None:
    """SBI's HallAndMonitor with its published truth; every frame is a sample. None if it is not there."""
    hall = folder / "ground_truth" / "HallAndMonitor"
    if not hall.is_dir():
        return None
    frames = np.stack([_picture(path) for path in natsorted((hall / "PNG").glob("*.png"))])
    return Film("HallAndMonitor", frames, 1, _picture(hall / "GT_HallAndMonitor.png"), hall / "PNG")


def street(folder: Path) -> Film | None:
    """A person in a street, against the median of the frames without anybody. None if it is not there."""
    path = folder / "people" / "bgslib_video.avi"
    if not path.is_file():
        return None
    truth = _picture(folder / "ground_truth" / "bgslib_video__empty_median.png")
    return Film("bgslib_video", _read(path), 5, truth, path)


REAL = {"HallAndMonitor": hall, "bgslib_video": street}


def _picture(path: Path) -> Frames:
    picture = cv2.imread(str(path))
    if picture is None:
        raise FileNotFoundError(f"{path} cannot be read as a picture")
    return picture.astype(np.uint8, copy=False)


def _read(path: Path) -> Frames:
    video, frames = cv2.VideoCapture(str(path)), []
    while (got := video.read())[0]:
        frames.append(got[1])
    return np.stack(frames).astype(np.uint8, copy=False)
