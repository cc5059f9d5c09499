"""The quality benchmark: peers against plain loops, tables against small cases worked by hand, and a run of it all."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import backgrounds
import bench_quality
import cv2
import films
import numpy as np
import pytest
import quality_speed
from backgrounds import PEERS, PLAIN, Film
from numpy.typing import NDArray
from quality_tables import BEGIN, END, Row, all_tables, by_film, mean_age, picture_of, put_into, targets, worst_above
from scenes import SCENES

from gpu_bgstat.config import Config
from gpu_bgstat.scores import Scores


def film_of(frames: NDArray[Any], every: int = 1, truth: NDArray[Any] | None = None) -> Film:
    """(N, H, W) levels as a film in three equal channels."""
    colour = np.repeat(frames.astype(np.uint8)[:, :, :, None], 3, axis=3)
    return Film("film", colour, every, colour[0] if truth is None else truth, Path("nowhere"))


def row(film: str, method: str, age: float, seed: int | None = None) -> Row:
    return Row(film, seed, method, Scores(age, 0.01, 0.0, 40.0, None, 30.0), 1.0)


# Peers ---------------------------------------------------------------------------------------------------------------


def test_plain_peers_worked_by_hand() -> None:
    """Samples 2, 2, 9, 4, 9: median 4, mean 5.2, mode 2 (9 is as frequent and larger)."""
    levels = np.array([0, 2, 0, 2, 0, 9, 0, 4, 0, 9]).reshape(10, 1, 1)
    film = film_of(levels, every=2)
    assert [int(PEERS[name](film)[0, 0, 0]) for name in (PLAIN, "mean", "mode")] == [4, 5, 2]


def test_trackers_take_their_own_samples() -> None:
    """Of frames 0 to 104: idtracker.ai takes ⌊k·104/49⌋, TRex 0, 4, 8, … 96."""
    film = film_of(np.arange(105).reshape(105, 1, 1))
    taken = [k * 104 // 49 for k in range(50)]
    assert PEERS["idtracker.ai"](film)[0, 0, 0] == (taken[24] + taken[25]) // 2
    assert PEERS["TRex max"](film)[0, 0, 0] == 96
    assert PEERS["TRex"](film)[0, 0, 0] == 48
    assert PEERS["TRex min"](film)[0, 0, 0] == 0


def test_short_films_are_no_trouble_for_trackers() -> None:
    """Of seven frames idtracker.ai takes ⌊k·6/49⌋, so that the middle two of 50 are frames 2 and 3."""
    film = film_of(np.arange(7).reshape(7, 1, 1))
    assert PEERS["TRex"](film)[0, 0, 0] == 3
    assert PEERS["idtracker.ai"](film)[0, 0, 0] == 2


def test_labgen_p_is_what_loops_find() -> None:
    """Its definition written out again: of 25 frames with motion 19 are taken; a window of 7x7, cut at the edge."""
    levels = np.random.default_rng(5).integers(0, 60, (26, 21, 24))
    got = PEERS["LaBGen-P"](film_of(levels))
    for y, x in [(0, 0), (20, 23), (10, 11), (3, 20)]:
        motions = []
        for number in range(1, 26):
            off = np.abs(levels[number] - levels[number - 1])[max(0, y - 3) : y + 4, max(0, x - 3) : x + 4]
            motions.append((int(off.sum()), -number))
        stillest = [-number for _, number in sorted(motions)[:19]]
        assert got[y, x, 0] == np.median([levels[number, y, x] for number in stillest])


@pytest.mark.parametrize("name", ["MOG2", "KNN"])
def test_opencvs_models_find_what_stays(name: str) -> None:
    film = film_of(np.random.default_rng(1).integers(99, 102, (60, 8, 8)))
    assert np.abs(PEERS[name](film).astype(int) - 100).max() <= 2


def test_ours_are_the_default_and_each_choice() -> None:
    ways = backgrounds.ours()
    assert ways["default"] == {}
    assert ways["fill=global"] == {"fill": "global"}
    assert all(isinstance(Config(**settings), Config) for settings in ways.values())


def test_our_methods_see_the_very_frames(tmp_path: Path) -> None:
    """The video of a scene is lossless, and the plain median of its samples is ours with no fill."""
    film = films.of_scene(replace(SCENES["short"], width=160, height=120, count=90, every=9), tmp_path)
    video = cv2.VideoCapture(str(film.source))
    read = np.stack([video.read()[1] for _ in range(90)])
    np.testing.assert_array_equal(read, film.frames)
    assert len(film.samples) == 10
    method = {"method": "median"} if "method" in Config.model_fields else {}
    np.testing.assert_array_equal(backgrounds.by_us(film, {"fill": "median", **method}), backgrounds.median(film))


# Tables --------------------------------------------------------------------------------------------------------------

ROWS = [
    row("a", PLAIN, 4.0, 1),
    row("a", "default", 1.0, 1),
    row("a", PLAIN, 2.0, 2),
    row("a", "default", 2.5, 2),
    row("b", PLAIN, 1.0),
    row("b", "default", 1.25),
]


def test_every_film_counts_once() -> None:
    """a: (4 + 2) / 2 = 3, with b (3 + 1) / 2 = 2; the default has 1.75 and 1.25, so 1.5."""
    assert mean_age(ROWS, PLAIN) == 2.0
    assert mean_age(ROWS, "default") == 1.5
    assert mean_age(ROWS, "nobody") is None
    lines = by_film(ROWS)
    assert lines[2] == "| a | 3.00 | **1.75** |"
    assert lines[-1] == "| **mean** | 2.00 | **1.50** |"


def test_the_worst_is_looked_for_instance_by_instance() -> None:
    assert worst_above(ROWS, "default") == (0.5, "a")
    assert [(most, round(got, 2)) for _, most, got in targets(ROWS)] == [(0.6, 0.75), (0.3, 0.5)]
    assert all_tables(ROWS).count("missed") == 2
    assert targets(ROWS[1::2]) == []
    assert "target" not in all_tables(ROWS[1::2])


def test_a_table_replaces_the_one_before(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"above\n{BEGIN}\nold\n{END}\nbelow\n", encoding="utf-8")
    put_into(page, "first")
    put_into(page, "second")
    assert page.read_text(encoding="utf-8") == f"above\n{BEGIN}\n\nsecond\n\n{END}\nbelow\n"
    (tmp_path / "other.md").write_text("no place", encoding="utf-8")
    with pytest.raises(SystemExit, match="has no place for the table"):
        put_into(tmp_path / "other.md", "text")
    assert (tmp_path / "other.md").read_text(encoding="utf-8") == "no place"


def test_docs_have_a_place_for_the_table() -> None:
    text = (Path(__file__).parents[1] / "docs" / "quality.md").read_text(encoding="utf-8")
    assert text.count(BEGIN) == text.count(END) == 1
    scenes = text.split("## The scenes")[1].split("## The methods")[0]
    assert all(name in scenes or f"`-{name.rsplit('-')[-1]}`" in scenes for name in SCENES)


def test_pictures_are_at_most_1000_pixels_wide() -> None:
    film = film_of(np.zeros((3, 90, 160)), truth=np.zeros((90, 160, 3), np.uint8))
    wrong = np.zeros((90, 160, 3), np.uint8)
    wrong[20:40, 30:60] = 200
    panel = picture_of(film, {"plain median": film.truth, "our default": wrong})
    assert panel.shape[1] == 1000
    error = panel[18:, 800:]
    assert error[30, 50].astype(int).sum() > error[100, 150].astype(int).sum() + 100


def test_of_two_truths_the_nearer_counts() -> None:
    film = film_of(np.zeros((2, 4, 4)))
    both = replace(film, also_true=np.full((4, 4, 3), 50, np.uint8))
    estimate = np.full((4, 4, 3), 48, np.uint8)
    assert bench_quality.scores_of(estimate, film).age == 48
    assert bench_quality.scores_of(estimate, both).age == 2


# The whole -----------------------------------------------------------------------------------------------------------


def test_a_quick_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page, figures = tmp_path / "page.md", tmp_path / "quality.json"
    page.write_text(f"{BEGIN}\n{END}\n", encoding="utf-8")
    options = ["--quick", "--json", figures, "--docs", page, "--pictures", tmp_path, "--strict"]
    code = bench_quality.main([str(option) for option in options])
    rows = json.loads(figures.read_text())["rows"]
    assert {row["film"] for row in rows} == {"asleep-70", "short"}
    assert {row["method"] for row in rows} == {*backgrounds.ours(), PLAIN, "mean", "LaBGen-P"}
    median = {row["film"]: row["scores"]["age"] for row in rows if row["method"] == PLAIN}
    assert all(0.1 < age < 20 for age in median.values())
    text = page.read_text(encoding="utf-8")
    assert "| asleep-70 |" in text
    assert code == int("missed" in text)
    assert text.split(BEGIN)[1].split(END)[0].strip() in capsys.readouterr().out
    assert {path.name for path in tmp_path.glob("*.jpg")} == {"quality-asleep-70.jpg", "quality-short.jpg"}


def test_only_chooses_films_and_methods(tmp_path: Path) -> None:
    figures = tmp_path / "quality.json"
    assert bench_quality.main(["--quick", "--only", "short mean", "--json", str(figures)]) == 0
    rows = json.loads(figures.read_text())["rows"]
    assert [(row["film"], row["method"]) for row in rows] == [("short", "mean")]


def test_times_are_of_both_settings_in_turns(film: Path) -> None:
    costs = quality_speed.in_turns(film, ("one", {}), ("other", {"fill": "global"}), turns=2, every=10)
    assert [(cost.stage, cost.first, cost.second, cost.turns) for cost in costs] == [
        ("finalize", "one", "other", 2),
        ("decode", "one", "other", 2),
    ]
    assert all(min(cost.first_s, cost.second_s, cost.ratio) > 0 for cost in costs)
    assert quality_speed.table(costs).count("\n") == 3
