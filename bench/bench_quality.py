"""How good the background is: every method on every scene with known truth, by the six scores of `gpu-bgstat compare`.

    python bench/bench_quality.py [--quick] [--json FILE] [--docs PAGE] [--pictures DIR] [--seeds 1,2,3] [--only WORDS]
                                  [--speed] [--turns 5] [--recordings DIR] [--strict]

Scenes are those of scenes.py, in several instances, and the real recordings with a reference (films.py). Methods are
our settings and what others do (backgrounds.py). Ours read a video file, so that they see times and may decode more
than the samples.

--only     words, of which a film's or a method's name must hold one; a film is left out only if a word names others
--docs     puts the tables into this page, between its two marks
--pictures as JPEG, of at most four scenes where most pixels of the default are wrong: frame, truth, plain median,
           default, and the default's error
--speed    also what each of our methods takes in time against the median, on recordings in H.264 and MPEG-4
--quick    two scenes, a few methods, everything once; it shows that the benchmark works
--strict   exit code 1 if the default misses a target
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import films
import numpy as np
import quality_speed
from backgrounds import PEERS, PLAIN, Film, Picture, Way, by_us, ours
from quality_tables import Row, all_tables, picture_of, put_into, targets
from scenes import SCENES

from gpu_bgstat import Config, __version__
from gpu_bgstat.scores import Scores, score

DEFAULT = "default"
RECORDINGS = Path(__file__).resolve().parents[2] / "shared" / "recordings"
_QUICK_SCENES, _QUICK_PEERS = ("asleep-70", "short"), (PLAIN, "mean", "LaBGen-P")
_MOST_PICTURES = 4
Make = Callable[[], Film | None]


@dataclass
class Found:
    """All that was measured; `shown` holds the films and backgrounds where the default is worst."""

    rows: list[Row] = field(default_factory=list)
    shown: dict[str, tuple[float, Film, dict[str, Picture]]] = field(default_factory=dict)

    def keep(self, film: Film, made: dict[str, Picture], most: int) -> None:
        """For the pictures: of each scene the instance with most wrong pixels, and of scenes the worst."""
        if DEFAULT not in made or PLAIN not in made:
            return
        wrong = next(row.scores.peps for row in reversed(self.rows) if row.method == DEFAULT)
        if wrong > self.shown.get(film.name, (-1.0,))[0]:
            chosen = {"plain median": made[PLAIN], "our default": made[DEFAULT]}
            middle = film.frames[[len(film.frames) // 2]]  # a copy: the other frames may go
            self.shown[film.name] = wrong, replace(film, frames=middle), chosen
        for name in sorted(self.shown, key=lambda name: self.shown[name][0])[:-most]:
            del self.shown[name]


def methods(quick: bool) -> dict[str, Way]:
    """Ours, then the peers."""
    ways: dict[str, Way] = {name: partial(by_us, settings=settings) for name, settings in ours().items()}
    return ways | {name: way for name, way in PEERS.items() if not quick or name in _QUICK_PEERS}


def all_films(seeds: Sequence[int], recordings: Path, folder: Path, quick: bool) -> dict[str, list[Make]]:
    """For each name what makes its films, so that what is not asked for is not rendered."""
    scenes = [*SCENES.values()]
    if quick:
        scenes = [replace(SCENES[name], width=160, height=120, count=200) for name in _QUICK_SCENES]
    made: dict[str, list[Make]] = {
        scene.name: [partial(films.of_scene, scene.variant(seed), folder) for seed in seeds] for scene in scenes
    }
    return made if quick else made | {name: [partial(make, recordings)] for name, make in films.REAL.items()}


def measure(film: Film, ways: dict[str, Way], found: Found) -> None:
    made = {}
    for name, way in ways.items():
        started = time.perf_counter()
        made[name] = way(film)
        seconds = time.perf_counter() - started
        found.rows.append(Row(film.name, film.seed, name, scores_of(made[name], film), seconds))
    found.keep(film, made, _MOST_PICTURES)


def scores_of(background: Picture, film: Film) -> Scores:
    """Against the truth that is nearer, if there are two."""
    truths = [film.truth] if film.also_true is None else [film.truth, film.also_true]
    return min((score(background, truth) for truth in truths), key=lambda scores: scores.age)


def run(arguments: argparse.Namespace) -> Found:
    seeds = [1] if arguments.quick else [int(seed) for seed in arguments.seeds.split(",")]
    ways = among(methods(arguments.quick), arguments.only)
    found = Found()
    with tempfile.TemporaryDirectory() as folder:
        chosen = among(all_films(seeds, arguments.recordings, Path(folder), arguments.quick), arguments.only)
        for name, makers in chosen.items():
            for make in makers:
                film = make()
                if film is None:
                    print(f"{name} is not in {arguments.recordings}: left out", file=sys.stderr)
                    continue
                measure(film, ways, found)
                if film.seed is not None:
                    film.source.unlink()
                told = ", ".join(f"{row.method} {row.scores.age:.2f}" for row in found.rows[-len(ways) :])
                print(f"{name} {film.seed or ''}: {told}", file=sys.stderr)
    return found


def among(named: dict[str, Any], only: str) -> dict[str, Any]:
    """Those whose name holds one of the words; all if no name does."""
    return {name: what for name, what in named.items() if any(word in name for word in only.split())} or named


def speeds(recordings: Path, turns: int) -> list[quality_speed.Cost]:
    """Each choice of `method` against the median."""
    settings = {name: given for name, given in ours().items() if "method" in given}
    base = ("method=median", {"method": "median"}) if "method" in Config.model_fields else (DEFAULT, {})
    others = [item for item in settings.items() if item[0] != base[0]] or [(f"{DEFAULT} again", {})]
    costs = []
    for name, every in quality_speed.RECORDINGS.items():
        path = recordings / name
        if not path.exists():
            print(f"{path} is not there: its times are left out", file=sys.stderr)
            continue
        for other in others:
            costs += quality_speed.in_turns(path, base, other, turns, every)
    return costs


def machine() -> dict[str, Any]:
    return {
        "gpu_bgstat": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "opencv": cv2.__version__,
        "cores": len(os.sched_getaffinity(0)),
    }


def as_json(rows: Sequence[Row], costs: Sequence[quality_speed.Cost]) -> str:
    """A line a figure, so that a later run shows in a diff what it changed."""
    lists = {"rows": [asdict(row) for row in rows], "costs": [asdict(cost) for cost in costs]}
    parts = [f'"machine": {json.dumps(machine())}']
    for name, items in lists.items():
        lines = ",\n".join(json.dumps(_rounded(item)) for item in items)
        parts.append(f'"{name}": [\n{lines}\n]')
    return "{" + ",\n".join(parts) + "}\n"


def _rounded(what: Any) -> Any:
    if isinstance(what, dict):
        return {name: _rounded(value) for name, value in what.items()}
    return round(what, 5) if isinstance(what, float) else what


def main(given: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--quick", action="store_true", help="two scenes, a few methods, everything once")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--docs", type=Path, metavar="PAGE", help="put the tables into this page")
    parser.add_argument("--pictures", type=Path, metavar="DIR", help="write pictures of the worst cases here")
    parser.add_argument("--seeds", default="1,2,3", help="which instances of each scene")
    parser.add_argument("--only", default="", metavar="WORDS", help="parts of names of films and methods")
    parser.add_argument("--speed", action="store_true", help="measure times on real recordings, too")
    parser.add_argument("--turns", type=int, default=5, help="of the times; the median counts")
    folder = Path(os.environ.get("BGSTAT_RECORDINGS", RECORDINGS))
    parser.add_argument("--recordings", type=Path, default=folder, metavar="DIR", help="the real recordings")
    parser.add_argument("--strict", action="store_true", help="exit code 1 if a target is missed")
    arguments = parser.parse_args(given)
    found = run(arguments)
    costs = speeds(arguments.recordings, 0 if arguments.quick else arguments.turns) if arguments.speed else []
    text = all_tables(found.rows) + (f"\n\n{quality_speed.table(costs)}" if costs else "")
    print(", ".join(f"{name} {value}" for name, value in machine().items()), text, sep="\n\n")
    if arguments.json:
        arguments.json.write_text(as_json(found.rows, costs))
    if arguments.docs:
        put_into(arguments.docs, text)
    if arguments.pictures:
        for name, (_, film, made) in found.shown.items():
            path = arguments.pictures / f"quality-{name}.jpg"
            cv2.imwrite(str(path), picture_of(film, made), [cv2.IMWRITE_JPEG_QUALITY, 85])
            print(path, file=sys.stderr)
    missed = any(got > most for _, most, got in targets(found.rows))
    return int(arguments.strict and missed)


if __name__ == "__main__":
    sys.exit(main())
