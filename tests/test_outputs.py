"""What is written, and that it is written whole or not at all."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from gpu_bgstat import Background, Config, estimate, outputs
from gpu_bgstat.errors import OutputError
from gpu_bgstat.outputs.page import brightness_plot, report_html


def made(dtype: str = "uint8", channels: int = 3, **settings: Any) -> Background:
    rng = np.random.default_rng(11)
    top = np.iinfo(dtype).max
    stack = rng.integers(0, top, (8, 23, 31, 3), dtype=dtype, endpoint=True)[..., :channels].squeeze()
    return estimate(stack, Config(**{"every": 1, "threshold": float(top) ** 2 / 12, **settings}))


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_files_hold_the_result(tmp_path: Path, dtype: str, channels: int) -> None:
    got = made(dtype, channels)
    paths = got.save(tmp_path / "new" / "folder")
    assert sorted(path.name for path in paths) == sorted(outputs.OUTPUTS)
    assert sorted(path.name for path in (tmp_path / "new" / "folder").iterdir()) == sorted(outputs.OUTPUTS)
    folder = tmp_path / "new" / "folder"
    for name, want in {
        "background_est.png": got.background,
        "background_var.png": got.heatmap,
        "stable_mask.png": got.stable.astype(np.uint8) * 255,
        "confidence.png": got.confidence,
    }.items():
        np.testing.assert_array_equal(cv2.imread(str(folder / name), cv2.IMREAD_UNCHANGED), want)
    variance = np.load(folder / "variance.npy")
    assert variance.dtype == np.float32
    np.testing.assert_array_equal(variance, got.variance)


def test_the_report_tells_what_was_done(film: Path, tmp_path: Path) -> None:
    got = estimate(film, Config(every=10, roi=(0, 0, 50, 40)))
    got.save(tmp_path)
    told = json.loads((tmp_path / "report.json").read_text())
    assert told["source"] == str(film)
    assert told["container"]["codec"] == "h264"
    assert told["container"]["frames_in_header"] == 90
    assert told["frames"] == {"seen": 90, "sampled": 9, "damaged": 0, "dropped": 0}
    assert [(sample["index"], sample["time_s"]) for sample in told["samples"]] == [
        (k, pytest.approx(k / 30)) for k in range(9, 90, 10)
    ]
    assert told["samples"][0]["brightness"] == pytest.approx(got.samples[0].brightness, abs=1e-3)
    assert told["image"] == {"width": 50, "height": 40, "channels": 3, "bits": 8}
    assert told["sample_bytes"] == 9 * 50 * 40 * 3
    assert told["stable_share"] == got.stable.mean()
    assert Config(**told["config"], **told["run"]["config"]) == got.config
    assert told["run"]["device"].startswith("cpu")
    timings = told["run"]["timings_s"]
    assert set(timings) == {"open", "read", "reduce", "finalize", "total"}
    assert timings["total"] >= sum(timings[stage] for stage in ("open", "read", "reduce"))
    assert set(told["run"]["versions"]) == {"gpu_bgstat", "python", "numpy", "opencv", "av"}
    assert told["run"]["decoding"]["way"] == "planned"
    assert told["warnings"] == []


class _References(HTMLParser):
    """Everything that the page would load from elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.images: list[str] = []
        self.others: list[str] = []
        self.scripts = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.scripts += tag == "script"
        for name, value in attrs:
            if name in ("src", "href"):
                (self.images if tag == "img" else self.others).append(value or "")


def test_the_page_stands_alone(film: Path, tmp_path: Path) -> None:
    hostile = tmp_path / "<script>alert(1)</script>&.mp4"
    hostile = tmp_path / hostile.name.replace("/", "_")
    hostile.write_bytes(film.read_bytes())
    got = estimate(hostile, Config(every=10))
    got.save(tmp_path / "out")
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    seen = _References()
    seen.feed(page)
    assert len(seen.images) == 5
    assert all(source.startswith("data:image/") for source in seen.images)
    assert not seen.others
    assert not seen.scripts
    assert not re.search(r"url\(|@import|\$[a-z]", page)
    assert "9 samples from 90 frames" in page
    assert page.count("<circle") == 9


def test_the_page_shows_the_device_beside_what_was_asked_for(film: Path) -> None:
    page = report_html(estimate(film, Config(every=9, device="cpu", exclude=["0f-5f", (1.0, 1.5)]))).decode()
    for name, text in (("device", "cpu, "), ("device, asked for", "cpu<"), ("exclude", "0f-5f, 1-1.5<")):
        assert f"<th>{name}</th><td>{text}" in page


def test_the_plot_rises_with_the_brightness() -> None:
    stack = np.arange(0, 50, 5, dtype=np.uint8)[:, None, None] * np.ones((10, 4, 4), np.uint8)
    plot = brightness_plot(estimate(stack, Config(every=1)).samples)
    points = re.search(r'points="([^"]+)"', plot)
    assert points
    x, y = np.array([pair.split(",") for pair in points[1].split()], float).T
    assert (np.diff(x) > 0).all()
    assert (np.diff(y) < 0).all()  # SVG counts downwards
    assert "45.0" in plot
    assert "9 frame" in plot


@pytest.mark.parametrize("cause", ["full disk", "folder"])
def test_a_failure_leaves_the_earlier_results_and_nothing_else(
    tmp_path: Path, cause: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file system fails for real: a name is taken by a folder, or an encoder meets a full disk."""
    made().save(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    changed = made(fill="global")
    if cause == "full disk":
        full: Callable[[Background], bytes] = lambda background: _full_disk()  # noqa: E731
        monkeypatch.setitem(outputs.OUTPUTS, "report.html", full)
    else:
        (tmp_path / "report.html").unlink()
        (tmp_path / "report.html" / "taken").mkdir(parents=True)
        del before["report.html"]
    with pytest.raises(OutputError, match=r"report\.html (cannot be written|is a folder)"):
        changed.save(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before


def _full_disk() -> bytes:
    with Path("/dev/full").open("wb", buffering=0) as disk:
        disk.write(b"x")
    return b""


def test_an_interrupt_leaves_no_folder_that_was_made_for_it(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), outputs.writable(tmp_path / "a" / "b"):
        raise KeyboardInterrupt
    assert not (tmp_path / "a").exists()


def test_a_folder_below_a_file_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"file is a file.*: give a folder"):
        made().save(tmp_path / "file" / "out")


@pytest.mark.parametrize("shape", [(5, 1, 5000), (5, 5000, 1, 3)])
def test_a_line_of_pixels_is_saved(shape: tuple[int, ...], tmp_path: Path) -> None:
    """The page's preview is smaller, and still at least one pixel thick."""
    stack = np.random.default_rng(0).integers(0, 255, shape, np.uint8)
    estimate(stack, Config(every=1)).save(tmp_path)
    assert (tmp_path / "report.html").stat().st_size > 1000
