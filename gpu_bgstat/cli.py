"""The command: arguments → pipeline → exit code. No logic of its own.

Exit codes: 0 done, 1 it failed and one line on stderr says why, 2 wrong usage, 130 interrupted, 143 terminated.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Callable, Sequence
from io import TextIOWrapper
from pathlib import Path
from typing import Any, TypeVar

import click
import cv2

from gpu_bgstat import comparison, device_table, doctor, window_command
from gpu_bgstat.backends.devices import read_devices
from gpu_bgstat.checkpoint import left_behind, remove
from gpu_bgstat.config import PRESETS, Config
from gpu_bgstat.demo import run_demo
from gpu_bgstat.errors import BgstatError, ConfigError, OutputError, SourceError, printable
from gpu_bgstat.forecast import forecast
from gpu_bgstat.frames import Background
from gpu_bgstat.interrupts import farewell
from gpu_bgstat.media.addresses import is_url, without_secrets
from gpu_bgstat.outputs import identity, saved_report, writable
from gpu_bgstat.pipeline import estimate
from gpu_bgstat.progress import Meter
from gpu_bgstat.snapshots import Snapshots
from gpu_bgstat.sources import SourceLike
from gpu_bgstat.sources.pipe import PIXEL_FORMATS, PipeSource
from gpu_bgstat.version import __version__

CHECKPOINT = ".checkpoint"  # in the folder for the results
_MOST_DIGITS = 9  # of a width or height
Command = TypeVar("Command", bound=Callable[..., Any])


def _help(field: str) -> str:
    return Config.model_fields[field].description or ""


def _setting_options(command: Command) -> Command:
    """One option for each knob of Config that says what to estimate; None where it is not given."""
    options = [
        click.option("--every", type=int, metavar="N", help=_help("every")),
        click.option("--max-samples", type=int, metavar="T", help=_help("max_samples")),
        click.option("--keep", type=click.Choice(["recent", "spread"]), help=_help("keep")),
        click.option("--snap", type=click.Choice(["keyframe"]), help=_help("snap")),
        click.option("--fast", is_flag=True, help="--snap keyframe with --keep spread: one decoded frame a sample"),
        click.option("--start", metavar="PLACE", help=_help("start")),
        click.option("--end", metavar="PLACE", help=_help("end")),
        click.option("--duration", type=float, metavar="SECONDS", help=_help("duration")),
        click.option("--exclude", metavar="BEGIN-END", multiple=True, help=_help("exclude") + "; may be repeated"),
        click.option("--every-window", metavar="LENGTH", help=_help("every_window")),
        click.option("--gray", is_flag=True, default=None, help=_help("gray")),
        click.option("--depth", type=click.Choice(["8", "16"]), help=_help("depth")),
        click.option("--method", type=click.Choice(["median", "still", "mode", "auto"]), help=_help("method")),
        click.option("--lag-s", type=float, metavar="SECONDS", help=_help("lag_s")),
        click.option("--light", type=click.Choice(["off", "gain", "regimes"]), help=_help("light")),
        click.option("--threshold", metavar="V|auto", help=_help("threshold")),
        click.option("--fill", type=click.Choice(["median", "global", "mode", "inpaint"]), help=_help("fill")),
        click.option("--shake", is_flag=True, default=None, help=_help("shake")),
        click.option("--roi", metavar="X,Y,W,H", help=_help("roi")),
        click.option("--reconnect", type=float, metavar="SECONDS", help=_help("reconnect")),
        click.option("--decode", type=click.Choice(["auto", "cpu", "nvdec"]), help=_help("decode")),
        click.option("--decoders", type=int, metavar="N", help=_help("decoders")),
        click.option("--memory-limit", metavar="SIZE", help=_help("memory_limit")),
        click.option("--scratch", type=click.Path(), metavar="DIR", help=_help("scratch")),
        click.option("--device", metavar="DEVICE", help=_help("device")),
        click.option("--preset", type=click.Choice(list(PRESETS)), default="default", help="where to begin"),
        click.option("--size", metavar="WxH", help="pixels: the size of raw frames on standard input"),
        click.option("--pix", type=click.Choice(list(PIXEL_FORMATS)), help="the pixel format of raw frames"),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def _config(preset: str, settings: dict[str, Any]) -> Config:
    """The preset with the options that were given; a bad value is wrong usage."""
    given = {name: value for name, value in settings.items() if value is not None}
    if given.pop("fast"):
        given = {"snap": "keyframe", "keep": "spread", **given}
    if "depth" in given:
        given["depth"] = int(given["depth"])
    try:
        return Config.preset(preset, **given)
    except ConfigError as error:
        raise click.UsageError(str(error)) from None


def _snapshots(every_s: float, folder: Path) -> Snapshots:
    try:
        return Snapshots(every_s, lambda background: background.save(folder))
    except ConfigError as error:
        raise click.UsageError(str(error)) from None


def _source(names: Sequence[str], size: str | None, pix: str | None) -> SourceLike:
    """What the pipeline opens: `-` is raw frames on standard input."""
    if "-" not in names:
        if size or pix:
            raise click.UsageError("--size and --pix describe raw frames on standard input: give - as the source")
        return names[0] if len(names) == 1 else list(names)
    if len(names) > 1 or not size or not pix:
        raise click.UsageError("- (standard input) stands alone, and needs --size WxH and --pix")
    width, _, height = size.lower().partition("x")
    digits = width.isdecimal() and height.isdecimal() and max(len(width), len(height)) <= _MOST_DIGITS
    if not (digits and int(width) and int(height)):
        raise click.UsageError(f"--size {size[:40]}: give width and height in pixels, such as 1920x1080")
    if sys.stdin is None:
        raise SourceError("standard input is closed: pipe raw frames into it")
    return PipeSource(sys.stdin.buffer, int(width), int(height), pix)


def _log_to_stderr(quiet: bool) -> None:
    """What the library says of devices and plans, a line each; only errors if asked for silence."""
    log = logging.getLogger("gpu_bgstat")
    log.handlers = [_ToStderr()]
    log.setLevel(logging.CRITICAL if quiet else logging.INFO)
    log.propagate = False


class _ToStderr(logging.Handler):
    """To whatever stderr is at the moment: the progress bar replaces it, to print above itself."""

    def emit(self, record: logging.LogRecord) -> None:
        click.echo(record.getMessage(), err=True)


def default_folder(names: Sequence[str]) -> Path:
    """Where the results go without -o: beside where the user stands, named after the recording."""
    name = "stdin" if names[0] == "-" else names[0]
    if is_url(name):
        name = without_secrets(name).removesuffix("?…")
    stem = Path(name).stem or Path(name).resolve().name
    return Path(f"{stem}_background".replace("*", "all"))


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="gpu-bgstat")
def cli() -> None:
    """The empty arena of a recording with a fixed camera: background, variance and stable pixels."""


@cli.command("estimate")
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="folder for the results")
@click.option(
    "--snapshot-every", type=float, metavar="SECONDS", help="write the results so far while collecting goes on"
)
@_setting_options
@click.option("--resume", is_flag=True, help="go on where an interrupted run stopped; an interruption can be resumed")
@click.option("--checkpoint", type=click.Path(path_type=Path), metavar="DIR", help="--resume, with its files in DIR")
@click.option("--json", "as_json", is_flag=True, help="print the report on stdout, and nothing else there")
@click.option("--quiet", is_flag=True, help="print nothing but errors")
def estimate_command(
    sources: tuple[str, ...],
    output: Path | None,
    snapshot_every: float | None,
    preset: str,
    size: str | None,
    pix: str | None,
    resume: bool,
    checkpoint: Path | None,
    as_json: bool,
    quiet: bool,
    **settings: Any,
) -> None:
    """Estimate the background of SOURCE and write it into a folder.

    SOURCE is a video, a folder or glob of images, a TIFF, .npy or .npz stack, camera:0, a stream URL, or - for
    raw frames on standard input. Several files in order are one recording.
    """
    config, source = _config(preset, settings), _source(sources, size, pix)
    folder = output or default_folder(sources)
    if any(os.path.isdir(name) and Path(name).resolve() == folder.resolve() for name in sources):  # noqa: PTH112
        raise click.UsageError(f"{folder} is the source, whose next run would read the results: give another -o")
    snapshots = None if snapshot_every is None else _snapshots(snapshot_every, folder)
    if config.every_window is not None and (snapshots or resume or checkpoint):
        raise click.UsageError(
            "--every-window writes each window once it is over: leave --snapshot-every, --resume out"
        )
    _log_to_stderr(quiet)
    if config.every_window is not None:
        window_command.run(source, config, folder, as_json=as_json, quiet=quiet)
        return
    if resume and checkpoint is None:
        checkpoint = folder / CHECKPOINT
    with writable(folder):
        place = identity(folder)
        if checkpoint is None and left_behind(folder / CHECKPOINT):
            click.echo(
                f"warning: {folder / CHECKPOINT} is left of an interrupted run: --resume goes on with it", err=True
            )
        with Meter(shown=not quiet) as meter:
            background = estimate(source, config, meter.update, snapshots, checkpoint)
        vanished = identity(folder) != place
        background.save(folder)
    if vanished:  # an unmounted disk, perhaps: nobody would look for the results on the disk below
        raise OutputError(
            f"{folder} vanished while the recording was read: it was made anew, and the results are there; "
            "see whether that is the disk that you meant"
        )
    if checkpoint is not None:
        remove(checkpoint)
    if as_json:
        click.echo(saved_report(folder), nl=False)  # bytes: UTF-8 whatever the terminal is
    if not quiet:
        _tell(background, folder, to_stderr=as_json)


def _tell(background: Background, folder: Path, to_stderr: bool) -> None:
    """The few lines that end an estimate."""
    run = background.run
    for warning in (*run.warnings, *run.notes):
        click.echo(f"warning: {printable(warning)}", err=True)
    click.echo(
        f"{len(background.samples)} samples of {run.frames_seen} frames in {run.timings_s['total']:.1f} s "
        f"({run.device}); {100 * background.stable.mean():.1f} % of the pixels are stable",
        err=to_stderr,
    )
    click.echo(f"background: {folder / 'background_est.png'}   report: {folder / 'report.html'}", err=to_stderr)


@cli.command("plan")
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...")
@_setting_options
@click.option("--json", "as_json", is_flag=True, help="print the plan as JSON")
def plan_command(
    sources: tuple[str, ...], preset: str, size: str | None, pix: str | None, as_json: bool, **settings: Any
) -> None:
    """Say, without decoding, what would be sampled, how much memory that takes, and on which device."""
    config, source = _config(preset, settings), _source(sources, size, pix)
    if config.every_window is not None:
        raise click.UsageError("plan tells of one window: give its --start and --end instead of --every-window")
    told = forecast(source, config)
    click.echo(json.dumps(told.as_dict(), indent=2) if as_json else str(told))


@cli.command("compare")
@click.argument("estimate", type=click.Path(path_type=Path))
@click.argument("truth", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="print the scores as JSON")
def compare_command(estimate: Path, truth: Path, as_json: bool) -> None:
    """Say how far the picture ESTIMATE, or the background in that folder of results, is from the picture TRUTH."""
    scores = comparison.compare(estimate, truth)
    click.echo(json.dumps(scores.as_dict(), indent=2) if as_json else comparison.as_text(scores))


@cli.command("devices")
@click.option("--json", "as_json", is_flag=True, help="print the readings as JSON")
def devices_command(as_json: bool) -> None:
    """Say which NVIDIA GPUs are here and how busy they are; without one, why not."""
    readings = read_devices()
    click.echo(json.dumps(device_table.as_dict(readings), indent=2) if as_json else device_table.as_text(readings))


@cli.command("doctor")
@click.option("--device", metavar="DEVICE", default="auto", help="gpu:0, gpu:0,1, or all of them")
def doctor_command(device: str) -> None:
    """Check on this machine that the GPU's results equal the CPU's; exit code 1 if they cannot be trusted."""
    findings = []
    for finding in doctor.examine(Config(device=device).device):
        findings.append(finding)
        click.echo(f"{'ok ' if finding.well else 'BAD'}  {finding.name}: {finding.detail}")
    click.echo(doctor.verdict(findings))
    if not all(finding.well for finding in findings):
        raise click.exceptions.Exit(1)


@cli.command("demo")
@click.option("-o", "--output", type=click.Path(path_type=Path), default=Path("demo"), help="folder for the results")
@click.option("--seconds", type=click.IntRange(2, 3600), default=60, show_default=True, help="length of the recording")
@click.option("--quiet", is_flag=True, help="print nothing but errors")
def demo_command(output: Path, seconds: int, quiet: bool) -> None:
    """Render an arena with moving animals, estimate its background, and print the error against the truth."""
    _log_to_stderr(quiet)
    with Meter(shown=not quiet) as meter:
        told = run_demo(output, seconds, meter.update)
    if not quiet:
        click.echo(told)


def hush_opencv() -> None:
    """Our one line says it; OpenCV's would come on top."""
    opencv_4: Any = getattr(cv2, "setLogLevel", None)
    silent = 0
    if opencv_4 is not None:
        opencv_4(silent)
    else:
        cv2.utils.logging.setLogLevel(silent)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code."""
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    hush_opencv()
    stdout: Any = sys.stdout
    if isinstance(stdout, TextIOWrapper):
        stdout.reconfigure(errors="backslashreplace")  # a file name may hold what the terminal's encoding lacks
    try:
        given = None if arguments is None else list(arguments)
        code: int | None = cli.main(args=given, prog_name="gpu-bgstat", standalone_mode=False)
        if stdout:
            stdout.flush()  # a full disk shows here
    except click.UsageError as error:
        error.show()
        return 2
    except click.ClickException as error:
        error.show()
        return 1
    except (KeyboardInterrupt, click.Abort) as error:
        return farewell(error.__cause__ or error)  # click's Abort has the signal as its cause
    except BgstatError as error:
        click.echo(f"gpu-bgstat: {printable(str(error))}", err=True)
        return 1
    except OSError as error:  # files have their own errors: what is left is stdout
        os.dup2(os.open(os.devnull, os.O_WRONLY), stdout.fileno())  # the interpreter flushes once more at its end
        click.echo(f"gpu-bgstat: standard output cannot be written ({error.strerror})", err=True)
        return 1
    return code or 0
