"""--light and --every-window from end to end, against plain NumPy over the same frames."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpu_bgstat import BackgroundEstimator, Config, estimate
from gpu_bgstat.arena import Arena
from gpu_bgstat.cli import main
from gpu_bgstat.errors import ConfigError, TooFewSamplesError
from gpu_bgstat.frames import Background, Frame, Plan, Window
from gpu_bgstat.sources.source import Source
from gpu_bgstat.windows import estimate_windows

Array = np.ndarray[Any, np.dtype[Any]]
ARENA = Arena(width=160, height=120, animals=2, asleep=0.3, noise=1.0)
MEDIAN: dict[str, Any] = {"every": 1, "method": "median"}


@pytest.fixture(scope="module")
def frames() -> Array:
    """80 frames, (80, 120, 160, 3), that are half a second apart."""
    return np.stack([frame for number, frame in enumerate(ARENA.frames(1200)) if number % 15 == 14])


def under(frames: Array, factor: Array) -> Array:
    lit: Array = np.clip(np.rint(frames * factor[:, None, None, None]), 0, 255).astype(np.uint8)
    return lit


def age(picture: Array, truth: Array) -> float:
    return float(np.abs(picture.astype(np.float64) - truth).mean())


# --- a common light ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["median", "still", "mode", "auto"])
def test_gain_gives_the_background_in_the_light_of_most(frames: Array, method: str, device: str) -> None:
    """Of three lights that all flicker, the middle one is the median's; the brightest holds for most."""
    factor = np.repeat([1.0, 0.8, 0.55], [34, 23, 23]) * np.random.default_rng(1).uniform(0.99, 1.01, 80)
    stack, truth = under(frames, factor), ARENA.truth()
    config = Config(every=1, method=method, light="gain", device=device)
    got = estimate(stack, config)
    constant = age(estimate(frames, config).background, truth)
    assert age(got.background, truth) <= constant + 0.6
    assert age(np.median(stack, axis=0), truth) > constant + 8
    assert got.run.warnings == () and got.regimes == ()


def test_the_variance_is_that_of_the_matched_samples(frames: Array) -> None:
    """Of noise and animals alone. A sample at half the light is doubled, noise and rounding too: hence the slack."""
    stack = under(frames, np.where(np.arange(80) < 50, 1.0, 0.5))
    got, raw = (estimate(stack, Config(**MEDIAN, light=light)) for light in ("gain", "off"))
    still = estimate(frames, Config(**MEDIAN))
    assert float(np.median(got.variance)) < float(np.median(still.variance)) + 1.5
    assert float(np.median(raw.variance)) > 100
    assert got.stable.mean() > raw.stable.mean() + 0.3


@pytest.mark.parametrize("method", ["median", "still", "mode"])
def test_constant_light_gives_the_same_bits(frames: Array, method: str, device: str) -> None:
    with_gain, without = (
        estimate(frames, Config(every=1, method=method, light=light, device=device)) for light in ("gain", "off")
    )
    np.testing.assert_array_equal(with_gain.background, without.background)
    np.testing.assert_array_equal(with_gain.variance, without.variance)
    np.testing.assert_array_equal(with_gain.confidence, without.confidence)


def test_samples_that_cannot_be_matched_are_told_and_left_out(frames: Array, device: str) -> None:
    """Black ones: what is left is the estimate without them, to the bit, and the warning says where they lie."""
    stack = frames.copy()
    stack[10:13] = 0
    stack[40] = 0
    got = estimate(stack, Config(**MEDIAN, light="gain", device=device))
    rest = estimate(np.delete(frames, [10, 11, 12, 40], axis=0), Config(**MEDIAN, device=device))
    for name in ("background", "variance", "stable", "heatmap", "confidence"):
        np.testing.assert_array_equal(getattr(got, name), getattr(rest, name), err_msg=name)
    assert (
        "light=gain leaves out 4 samples (frame 10 to frame 12, frame 40): not to be matched to the light of the others"
        in got.run.warnings
    )


def test_without_anything_to_match_all_samples_stay(frames: Array) -> None:
    """All but one are black."""
    stack = np.zeros_like(frames[:6])
    stack[2] = frames[2]
    got = estimate(stack, Config(**MEDIAN, light="gain"))
    assert not got.background.any() and any("leaves all samples as they are" in told for told in got.run.warnings)


def test_gain_in_grey_of_16_bits_and_in_a_scratch_file(frames: Array, tmp_path: Path) -> None:
    """The ring in a file gives the same bits as the one in memory."""
    factor = np.where(np.arange(80) < 45, 16.0, 9.0)
    grey = np.rint(frames[..., 1] * factor[:, None, None]).astype(np.uint16)
    config = Config(**MEDIAN, light="gain")
    got = estimate(grey, config)
    assert age(got.background / 16, ARENA.truth()[..., 1]) < 1.0
    with (
        (tmp_path / "samples").open("w+b", buffering=0) as kept,
        BackgroundEstimator(config, kept=kept) as estimator,
    ):
        for frame in grey:
            estimator.collect(frame)
        filed = estimator.finalize()
    np.testing.assert_array_equal(filed.background, got.background)
    np.testing.assert_array_equal(filed.variance, got.variance)


def test_gain_of_a_recording_of_unknown_length(frames: Array) -> None:
    """The ring was overwritten and thinned: the order of its slots is not that of time."""
    factor = np.where(np.arange(80) % 4 == 3, 0.6, 1.0)
    stack = under(frames, factor)
    for keep, places in (("recent", range(63, 80)), ("spread", range(7, 80, 8))):
        config = Config(**MEDIAN, light="gain", keep=keep, max_samples=17)
        got = estimate(iter(stack), config)
        assert [sample.index for sample in got.samples] == list(places)
        np.testing.assert_array_equal(got.background, estimate(stack[list(places)], config).background)


def test_resume_keeps_the_thumbnails(tmp_path: Path) -> None:
    """What an interrupted run has got is not read again, although no method here asks for neighbours."""
    film = tmp_path / "film.mp4"
    dimmed(film, 120, lambda number: 0.5 if number >= 70 else 1.0)
    config = Config(every=4, method="median", light="gain", decoders=1)
    want = estimate(film, config)

    def stop(progress: Any) -> None:
        if progress.samples == 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        estimate(film, config, stop, checkpoint=tmp_path / "checkpoint")
    counts: list[int] = []
    got = estimate(film, config, lambda progress: counts.append(progress.samples), checkpoint=tmp_path / "checkpoint")
    assert len(counts) < 20  # of 30: those of the group that was being decoded come once more
    np.testing.assert_array_equal(got.background, want.background)
    np.testing.assert_array_equal(got.variance, want.variance)


# --- regimes of light ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["median", "still", "auto"])
def test_day_and_night_have_a_background_each(frames: Array, method: str, device: str) -> None:
    """70 to 30: each is the estimate of its frames alone, and the whole shows the day."""
    stack = under(frames, np.where(np.arange(80) % 40 < 28, 1.0, 0.3))
    day = np.arange(80) % 40 < 28
    got = estimate(stack, Config(every=1, method=method, light="regimes", device=device))
    assert [len(regime.samples) for regime in got.regimes] == [56, 24]
    assert [sample.index for sample in got.regimes[1].samples] == np.flatnonzero(~day).tolist()
    assert [(span.regime, span.from_frame, span.to_frame, span.samples) for span in got.spans] == [
        (1, 0, 28, 28),
        (2, 28, 40, 12),
        (1, 40, 68, 28),
        (2, 68, 80, 12),
    ]
    for regime, members, factor in zip(got.regimes, (day, ~day), (1.0, 0.3), strict=True):
        np.testing.assert_allclose(regime.variance, stack[members].astype(np.float64).var(axis=0), rtol=1e-6, atol=1e-9)
        assert age(regime.background, ARENA.truth() * factor) < 1.0
        if method == "median":
            np.testing.assert_array_equal(regime.background, np.median(stack[members], axis=0).astype(np.uint8))
    np.testing.assert_array_equal(got.background, got.regimes[0].background)
    near = np.abs(stack[day].astype(int) - got.background) <= got.noise.tolerance
    share = near.sum(axis=0).min(axis=2) / 56
    np.testing.assert_allclose(got.confidence, 255 * share, atol=0.51)


def test_dawn_is_told_and_left_out(frames: Array) -> None:
    stack = under(frames, np.interp(np.arange(80), [45, 50], [1.0, 0.3]))
    got = estimate(stack, Config(**MEDIAN, light="regimes"))
    assert [len(regime.samples) for regime in got.regimes] == [46, 30]
    assert "light=regimes leaves out 4 samples (frame 46 to frame 49): in the light of no regime" in got.run.warnings
    assert [(span.regime, span.from_frame, span.to_frame) for span in got.spans] == [
        (1, 0, 46),
        (0, 46, 50),
        (2, 50, 80),
    ]


def test_one_light_is_one_regime_with_the_same_bits(frames: Array, device: str) -> None:
    got, plain = (estimate(frames, Config(**MEDIAN, light=light, device=device)) for light in ("regimes", "off"))
    for name in ("background", "variance", "stable", "heatmap", "confidence"):
        np.testing.assert_array_equal(getattr(got, name), getattr(plain, name), err_msg=name)
    assert len(got.regimes) == len(got.spans) == 1


@pytest.mark.parametrize("count", [2, 3, 4])
def test_few_samples_in_different_light_are_one_regime(frames: Array, count: int) -> None:
    stack = under(frames[:count], np.linspace(0.5, 1.0, count))
    got, off = (estimate(stack, Config(**MEDIAN, light=light)) for light in ("regimes", "off"))
    assert [len(regime.samples) for regime in got.regimes] == [count]
    np.testing.assert_array_equal(got.background, off.background)


def test_regimes_of_a_recording_of_unknown_length(frames: Array) -> None:
    stack = under(frames, np.where(np.arange(80) < 50, 1.0, 0.4))
    got = estimate(iter(stack), Config(**MEDIAN, light="regimes", keep="recent", max_samples=60))
    assert [(span.regime, span.from_frame, span.to_frame) for span in got.spans] == [(1, 20, 50), (2, 50, 80)]
    np.testing.assert_array_equal(got.regimes[1].background, np.median(stack[50:], axis=0).astype(np.uint8))


@pytest.mark.parametrize("setting", [{"method": "mode"}, {"fill": "mode"}])
def test_what_does_not_go_with_regimes(setting: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"light=regimes goes with neither method=mode nor fill=mode"):
        Config(light="regimes", **setting)


# --- the command ---------------------------------------------------------------------------------------------------


def dimmed(path: Path, count: int, factor: Callable[[int], float]) -> None:
    """A film of the arena, 30 frames a second, each frame with a factor."""
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = ARENA.width, ARENA.height, "yuv420p"
        stream.options = {"crf": "8", "preset": "superfast", "g": "30"}
        for number, frame in enumerate(ARENA.frames(count)):
            lit = np.clip(np.rint(frame * factor(number)), 0, 255).astype(np.uint8)
            planes: Any = cv2.cvtColor(lit, cv2.COLOR_BGR2YUV_I420)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(planes, format="yuv420p")))
        container.mux(stream.encode())


@pytest.fixture(scope="module")
def day_and_night(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """10 s, of which the last 3 are dark."""
    path = tmp_path_factory.mktemp("film") / "day.mp4"
    dimmed(path, 300, lambda number: 1.0 if number < 210 else 0.35)
    return path


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def picture(path: Path) -> Array:
    pixels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert pixels is not None
    return pixels


def test_the_command_writes_each_regime(day_and_night: Path, tmp_path: Path) -> None:
    """Pictures, the table, their sums in the report, and the page says whose pictures it shows."""
    out = tmp_path / "out"
    assert main(["estimate", str(day_and_night), "-o", str(out), "--every", "5", "--light", "regimes", "--quiet"]) == 0
    assert rows(out / "regimes.csv") == [
        {"from_s": "0.133", "to_s": "7.050", "from_frame": "4", "to_frame": "212", "regime": "1", "samples": "42"},
        {"from_s": "7.050", "to_s": "9.967", "from_frame": "212", "to_frame": "300", "regime": "2", "samples": "18"},
    ]
    report = json.loads((out / "report.json").read_text())
    assert [regime["samples"] for regime in report["regimes"]] == [42, 18]
    added = {f"regime_{n}_background_{kind}.png" for n in (1, 2) for kind in ("est", "var")} | {"regimes.csv"}
    assert added <= set(report["files"])
    for name in added:
        assert report["files"][name] == hashlib.sha256((out / name).read_bytes()).hexdigest()
    assert np.array_equal(picture(out / "regime_1_background_est.png"), picture(out / "background_est.png"))
    assert age(picture(out / "regime_2_background_est.png"), 0.35 * ARENA.truth()) < 3
    assert "2, of 42, 18 samples" in (out / "report.html").read_text()


def test_regimes_are_whole_or_nothing(day_and_night: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """One that cannot be written leaves nothing of the others."""
    (tmp_path / "regimes.csv").mkdir()
    assert main(["estimate", str(day_and_night), "-o", str(tmp_path), "--every", "5", "--light", "regimes"]) == 1
    assert "regimes.csv is a folder" in capfd.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["regimes.csv"]


def test_off_writes_no_regimes(day_and_night: Path, tmp_path: Path) -> None:
    assert main(["estimate", str(day_and_night), "-o", str(tmp_path), "--every", "5", "--quiet"]) == 0
    assert not list(tmp_path.glob("regime*"))
    assert json.loads((tmp_path / "report.json").read_text())["regimes"] == []


# --- a background for each window ----------------------------------------------------------------------------------


def all_windows(source: Any, config: Config) -> list[tuple[Window, Background | None]]:
    taken: list[tuple[Window, Background | None]] = []
    found = estimate_windows(source, config, lambda window, background: taken.append((window, background)))
    assert [window for window, _ in taken] == list(found.windows)
    return taken


def assert_same(one: Background, other: Background) -> None:
    for name in ("background", "variance", "stable", "heatmap", "confidence", "choice"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)
    assert one.samples == other.samples


@pytest.mark.parametrize("method", ["median", "auto"])
@pytest.mark.parametrize("decoders", [1, 3])
def test_a_window_is_an_estimate_of_its_range(day_and_night: Path, method: str, decoders: int) -> None:
    """To the bit, whatever reads beside each other; max_samples is for each window."""
    config = Config(every=4, method=method, max_samples=15, every_window="3s", decoders=decoders)
    taken = all_windows(day_and_night, config)
    assert [(window.from_frame, window.to_frame, window.samples) for window, _ in taken] == [
        (0, 90, 15),
        (90, 180, 15),
        (180, 270, 15),
        (270, 300, 7),
    ]
    for window, background in taken:
        places = {"start": f"{window.from_frame}f", "end": f"{window.to_frame}f"}
        alone = estimate(day_and_night, Config(every=4, method=method, max_samples=15, **places))
        assert background is not None
        assert_same(background, alone)
        assert background.config == alone.config.model_copy(update={"decoders": decoders})
        assert background.run.frames_seen == window.to_frame - window.from_frame


def test_drift_is_followed(frames: Array) -> None:
    """Twice as bright at the end: each window shows its own light, where the whole is a mixture."""
    factor = np.linspace(0.5, 1.0, 80)
    stack = under(frames, factor)
    for window, background in all_windows(stack, Config(**MEDIAN, every_window="16f")):
        assert background is not None
        middle = float(factor[window.from_frame : window.to_frame].mean())
        assert age(background.background, middle * ARENA.truth()) < 2.5


def test_windows_of_unknown_length_are_those_of_known_length(frames: Array) -> None:
    """In frames, with an interval that doubles within a window, and begins anew in the next one."""
    config = Config(every=2, method="median", max_samples=6, every_window="30f", start="5f", exclude=["20f-24f"])
    for window, background in all_windows(iter(frames), config):
        assert background is not None
        places = {"start": f"{window.from_frame}f", "end": f"{window.to_frame}f", "exclude": ["20f-24f"]}
        alone = estimate(iter(frames), Config(every=2, method="median", max_samples=6, **places))
        assert_same(background, alone)
        assert window.samples == len(alone.samples) <= 6
    assert [window.from_frame for window, _ in all_windows(iter(frames), config)] == [5, 35, 65]


class Clocked(Source):
    """Frames whose length nobody knows beforehand, with times, as a camera gives them."""

    def __init__(self, frames: Array, times_s: list[float]) -> None:
        super().__init__("clocked")
        self.spec, self.timeline = None, None
        self._frames, self._times_s = frames, times_s

    def read(self, plan: Plan) -> Iterator[Frame]:
        self.begin()
        for index, (pixels, time_s) in enumerate(zip(self._frames, self._times_s, strict=True)):
            if plan.over(index, time_s):
                return
            self.seen += 1
            if plan.due(index, time_s) and plan.due(index, time_s):  # as a live source: when it came, and when it goes
                yield Frame(index, time_s, pixels)


def test_windows_of_a_live_source_go_by_its_clock(frames: Array) -> None:
    """From the first frame of the range on; a drop-out of more than a window leaves that one out."""
    times_s = [0.5 * number for number in range(40)] + [60 + 0.5 * number for number in range(40)]
    config = Config(every=3, method="median", every_window="10s", start=4, end=76)
    taken = all_windows(Clocked(frames, times_s), config)
    assert [(window.number, window.from_s, window.to_s) for window, _ in taken] == [
        (1, 4.0, 14.0),
        (2, 14.0, 24.0),
        (6, 54.0, 64.0),
        (7, 64.0, 74.0),
        (8, 74.0, 75.5),
    ]
    for window, background in taken[:-1]:
        places = {"start": window.from_s, "end": window.to_s}
        alone = estimate(Clocked(frames, times_s), Config(every=3, method="median", **places))
        assert background is not None
        assert_same(background, alone)
    assert taken[-1][1] is None


@settings(deadline=None, max_examples=40)
@given(count=st.integers(1, 60), every=st.integers(1, 5), length=st.integers(1, 25), limit=st.integers(2, 9))
def test_every_sample_lies_in_one_window(count: int, every: int, length: int, limit: int) -> None:
    """Known length or not: windows are next to each other, and each has the samples of its own schedule."""
    stack = np.arange(count, dtype=np.uint8)[:, None, None].repeat(2, axis=1).repeat(3, axis=2)
    config = Config(every=every, method="median", max_samples=limit, every_window=f"{length}f", keep="recent")
    if min(count, length) // every < 2:
        return
    known = all_windows(stack, config)
    assert [(window.from_frame, window.to_frame) for window, _ in known] == [
        (begin, min(count, begin + length)) for begin in range(0, count, length)
    ]
    for window, background in known:
        in_window = (window.to_frame - window.from_frame) // every
        assert window.samples == min(limit, in_window) and (background is None) == (window.samples < 2)
    met = [window for window, _ in known if window.samples]  # nobody waits for a frame that may never come
    assert [window for window, _ in all_windows(iter(stack), config)] == met


def test_a_window_with_one_sample_has_no_background(frames: Array, tmp_path: Path) -> None:
    taken = all_windows(frames[:45], Config(every=5, method="median", every_window="20f"))
    assert [(window.samples, background is None) for window, background in taken] == [(4, False), (4, False), (1, True)]


def test_no_window_with_two_samples_is_an_error(frames: Array) -> None:
    with pytest.raises(TooFewSamplesError, match=r"none of 4 windows has them: lower every=20"):
        all_windows(frames, Config(every=20, method="median", every_window="20f"))


def test_seconds_need_times(frames: Array) -> None:
    for source in (frames, iter(frames)):
        with pytest.raises(ConfigError, match=r"every_window=600.0 s needs frame times.*1500f"):
            all_windows(source, Config(every=2, every_window="10min"))


def test_too_many_windows(day_and_night: Path) -> None:
    with pytest.raises(ConfigError, match=r"makes 99,\d\d\d windows, and 9,999 are the most"):
        all_windows(day_and_night, Config(every=2, every_window=0.0001))


def test_estimate_makes_one_background(frames: Array) -> None:
    with pytest.raises(ConfigError, match=r"use estimate_windows"):
        estimate(frames, Config(every_window="10f"))


@pytest.mark.parametrize(
    ("given", "length"),
    [("10min", 600.0), ("1.5h", 5400.0), (90, 90.0), ("90s", 90.0), ("00:10:00", 600.0), ("1500f", "1500f")],
)
def test_lengths_of_windows(given: Any, length: float | str) -> None:
    assert Config(every_window=given).every_window == length


@pytest.mark.parametrize("given", [0, "0f", "10 minutes", -3, "", True])
def test_bad_lengths_of_windows(given: Any) -> None:
    with pytest.raises(ConfigError, match=r"^every_window="):
        Config(every_window=given)


def test_the_command_writes_each_window(day_and_night: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A folder each, with all outputs; a table; a word about what an earlier run has left."""
    (tmp_path / "window_0007").mkdir()
    arguments = ["estimate", str(day_and_night), "-o", str(tmp_path), "--every", "6", "--every-window", "4s"]
    assert main(arguments) == 0
    told = capfd.readouterr()
    assert "3 windows, 50 samples" in told.out
    assert f"warning: of an earlier run: window_0007 in {tmp_path}" in told.err
    assert rows(tmp_path / "windows.csv")[1] == {
        "window": "2",
        "from_s": "4.000",
        "to_s": "8.000",
        "from_frame": "120",
        "to_frame": "240",
        "samples": "20",
        "folder": "window_0002",
    }
    alone = tmp_path / "alone"
    assert main([*arguments[:2], "-o", str(alone), "--every", "6", "--start", "120f", "--end", "240f"]) == 0
    for name in ("background_est.png", "variance.npy", "stable_mask.png"):
        assert (tmp_path / "window_0002" / name).read_bytes() == (alone / name).read_bytes()
    capfd.readouterr()
    assert main([*arguments, "--json"]) == 0
    assert [row["folder"] for row in json.loads(capfd.readouterr().out)] == [f"window_000{n}" for n in (1, 2, 3)]


@pytest.mark.parametrize("option", [["--resume"], ["--snapshot-every", "5"], ["--checkpoint", "x"]])
def test_what_does_not_go_with_windows(
    day_and_night: Path, tmp_path: Path, option: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    arguments = ["estimate", str(day_and_night), "-o", str(tmp_path / "out"), "--every-window", "4s", *option]
    assert main(arguments) == 2
    assert "--every-window writes each window once it is over" in capfd.readouterr().err
    assert not (tmp_path / "out").exists()
