"""report.html: one self-contained page with the pictures, the samples' brightness and the figures, fit to be mailed."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path, PurePath
from string import Template
from typing import Any

import numpy as np

from gpu_bgstat.frames import Background, Image, Sample
from gpu_bgstat.outputs.pictures import colored, encode, preview
from gpu_bgstat.outputs.report import report

_FILLED = {
    "global": "unstable pixels show one colour",
    "mode": "pixels whose background hardly any sample shows have their most frequent value",
    "inpaint": "pixels whose background hardly any sample shows are painted from those around",
}
_MADE = {
    "median": "the median of {} samples",
    "still": "of {} samples, in each place the median of those in which nothing moves there",
    "mode": "the densest value of {} samples",
    "auto": "of {} samples, in each place the median of those that show it empty and still",
}
_TEMPLATE = Template((Path(__file__).parent / "page.html").read_text(encoding="utf-8"))


def report_html(background: Background) -> bytes:
    """The page. Pictures are previews of at most 1280 pixels a side; the files beside it have every pixel.

    What depends on the machine and the clock stands in one place, `<div id="run">`, as under `run` in report.json.
    """
    facts = report(background)
    stable = background.stable.astype(np.uint8) * 255
    page = _TEMPLATE.substitute(
        title=escape(PurePath(background.run.source).name or background.run.source),
        lead=escape(_lead(facts)),
        warnings=_warnings("Please note", background.run.warnings),
        notes=_warnings("On this machine", background.run.notes),
        background=_data_uri(".jpg", background.background),
        heatmap=_data_uri(".jpg", colored(background.heatmap)),
        stable=_data_uri(".png", stable),
        confidence=_data_uri(".png", background.confidence),
        choice=_data_uri(".png", background.choice * np.uint8(127)),
        choice_note=escape(_choices(facts["choice"])),
        made_how=escape(_made_how(background)),
        variance_note=escape(f"Median variance {float(np.median(background.variance)):.3g} squared grey levels."),
        stable_share=escape(f"{100 * facts['stable_share']:.1f} %"),
        tolerance=escape(str(background.noise.tolerance)),
        threshold=" / ".join(dict.fromkeys(f"{threshold:.3g}" for threshold in background.thresholds)),
        plot=brightness_plot(background.samples),
        figures=_rows(_figures(facts)),
        run=_rows(_run(facts["run"])),
        settings=_rows({name: _plain(value) for name, value in facts["config"].items()}),
    )
    return page.encode(errors="replace")  # a file name may hold bytes that are no UTF-8


def _choices(shares: Mapping[str, float]) -> str:
    if shares["own"] == 1:
        return "Black: nowhere was there a choice between two states of the place."
    return (
        f"Where a place was in two states for long: grey, {100 * shares['common']:.2f} % of the pixels, shows the one "
        f"that lasted longer; white, {100 * shares['rare']:.2f} %, the other one, because what left it was alive."
    )


def _lead(facts: Mapping[str, Any]) -> str:
    image, frames = facts["image"], facts["frames"]
    kind = "grey" if image["channels"] == 1 else "colour"
    size = f"{image['width']} × {image['height']} pixels, {kind}, {image['bits']} bit"
    snapshot = "snapshot while collecting went on: " if facts["snapshot"] else ""
    return f"{snapshot}{frames['sampled']} samples from {frames['seen']} frames; {size}"


def _made_how(background: Background) -> str:
    samples = background.regimes[0].samples if background.regimes else background.samples
    text = _MADE[background.config.method].format(len(samples))
    fill = background.config.fill
    return f"{text}; {_FILLED[fill]} (fill={fill})" if fill in _FILLED else text


def _figures(facts: Mapping[str, Any]) -> dict[str, str]:
    """The facts that a reader wants first, as label and text."""
    header = {key: _plain(value) for key, value in facts["container"].items() if key != "parts"}
    samples = facts["samples"]
    last = samples[-1]["time_s"]
    span = f"frames {samples[0]['index']} to {samples[-1]['index']}"
    if last is not None:
        span += f", {samples[0]['time_s']:.1f} s to {last:.1f} s"
    return {
        "source": facts["source"],
        **header,
        "samples span": span,
        **_regimes(facts["regimes"]),
        "damaged": str(facts["frames"]["damaged"]),
        "dropped": str(facts["frames"]["dropped"]),
        **({"shake": _shake(facts["shake"])} if facts["shake"] else {}),
        "sample memory": f"{facts['sample_bytes'] / 1e6:.1f} MB",
    }


def _regimes(regimes: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """How many lights were found; nothing where nobody asked."""
    if not regimes:
        return {}
    counts = ", ".join(str(regime["samples"]) for regime in regimes)
    return {"regimes of light": f"{len(regimes)}, of {counts} samples; the pictures of this page are of the first"}


def _shake(facts: Mapping[str, Any]) -> str:
    lost = f"; {facts['unregistered']} samples could not be registered" if facts["unregistered"] else ""
    return f"samples were moved by up to {facts['largest_px']:g} pixels{lost}"


def _run(facts: Mapping[str, Any]) -> dict[str, str]:
    """What another machine, or another day, would have had otherwise."""
    return {
        "device": facts["device"],
        "decoding": _decoding(facts["decoding"]),
        "time": ", ".join(f"{stage} {seconds:.2f} s" for stage, seconds in facts["timings_s"].items()),
        "versions": ", ".join(f"{name} {version}" for name, version in facts["versions"].items()),
        **{f"{name}, asked for": _plain(value) for name, value in facts["config"].items()},
    }


def _decoding(facts: Mapping[str, Any]) -> str:
    """Which way, and why."""
    if "parts" in facts:
        return "; ".join(dict.fromkeys(_decoding(part) for part in facts["parts"]))
    if "way" not in facts:
        return "–"
    text = f"{facts['way']}: {facts['why']}"
    if facts["way"] == "planned":
        text += f"; {facts['packets_needed']} of {facts['packets']} packets, {facts['decoders']} decoders"
    return text


def _plain(value: Any) -> str:
    if value is None or value == []:
        return "–"
    if isinstance(value, list):  # stretches are lists of two places
        return ", ".join("-".join(map(_plain, part)) if isinstance(part, list) else _plain(part) for part in value)
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _rows(entries: Mapping[str, str]) -> str:
    return "".join(
        f"<tr><th>{escape(name.replace('_', ' '))}</th><td>{escape(text)}</td></tr>" for name, text in entries.items()
    )


def _warnings(title: str, warnings: Iterable[str]) -> str:
    items = "".join(f"<li>{escape(warning)}</li>" for warning in warnings)
    return f'<section class="card warn"><h2>{title}</h2><ul>{items}</ul></section>' if items else ""


def _data_uri(suffix: str, image: Image) -> str:
    kind = {".jpg": "jpeg", ".png": "png"}[suffix]
    return f"data:image/{kind};base64,{b64encode(encode(suffix, preview(image))).decode()}"


def brightness_plot(samples: tuple[Sample, ...]) -> str:
    """An SVG of brightness over time (over frame numbers where there are no times), at least one grey level high.

    left edge x=56, right x=984, top y=12, bottom y=188
    """
    timed = all(sample.time_s is not None for sample in samples)
    x = np.array([sample.time_s if timed else sample.index for sample in samples], dtype=float)
    y = np.array([sample.brightness for sample in samples])
    low, high = float(y.min()), float(y.max())
    if high - low < 1:
        low, high = (low + high - 1) / 2, (low + high + 1) / 2
    width = float(x[-1] - x[0]) or 1.0
    px = 56 + (x - x[0]) / width * 928
    py = 188 - (y - low) / (high - low) * 176
    points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(px, py, strict=True))
    dots = "".join(f'<circle cx="{a:.1f}" cy="{b:.1f}" r="2"/>' for a, b in zip(px, py, strict=True))
    unit = "s" if timed else "frame"
    return (
        '<svg viewBox="0 0 1000 220" role="img" aria-label="Brightness of the samples over time">'
        '<path class="axis" d="M56 12V188H984" fill="none"/>'
        f'<text x="48" y="20" text-anchor="end">{high:.1f}</text>'
        f'<text x="48" y="188" text-anchor="end">{low:.1f}</text>'
        f'<text x="56" y="208">{x[0]:.6g} {unit}</text>'
        f'<text x="984" y="208" text-anchor="end">{x[-1]:.6g} {unit}</text>'
        f'<polyline class="curve" points="{points}"/>{dots if len(samples) <= 200 else ""}</svg>'
    )
