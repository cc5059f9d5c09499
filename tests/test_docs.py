"""The documents say what is true: every option, setting, output, source and kernel; and the README's examples run."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import click
import pytest

from gpu_bgstat import outputs
from gpu_bgstat.arena import Arena
from gpu_bgstat.backends import kernels
from gpu_bgstat.cli import cli, main
from gpu_bgstat.config import Config
from gpu_bgstat.sources.pipe import PIXEL_FORMATS

ROOT = Path(__file__).resolve().parents[1]
COMMAND = (ROOT / "docs" / "command.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")


def options() -> set[str]:
    return {
        name
        for command in cli.commands.values()
        for option in command.params
        if isinstance(option, click.Option)
        for name in option.opts
        if name.startswith("--") and name != "--help"
    }


def documented() -> dict[str, str]:
    """option -> its row in docs/command.md"""
    rows = [line for line in COMMAND.splitlines() if line.startswith("| `-")]
    return {name: row for row in rows for name in re.findall(r"--[a-z-]+", row.split("|")[1])}


def test_every_option_is_documented_and_no_other() -> None:
    assert set(documented()) == options()


def test_every_setting_is_an_option_of_that_name() -> None:
    assert {f"--{name.replace('_', '-')}" for name in Config.model_fields} <= options()


@pytest.mark.parametrize("field", ["every", "max_samples", "keep", "method", "lag_s", "threshold", "fill", "device"])
def test_the_documented_defaults_are_the_defaults(field: str) -> None:
    row = documented()[f"--{field.replace('_', '-')}"].replace("\\|", "/")
    assert row.split("|")[3].strip().strip("`") == str(getattr(Config(), field))


def test_every_setting_has_a_description() -> None:
    assert all(field.description for field in Config.model_fields.values())


def test_every_output_and_pixel_format_is_documented() -> None:
    for name in [*outputs.OUTPUTS, *PIXEL_FORMATS, *cli.commands]:
        assert f"`{name}`" in COMMAND or f" {name} " in COMMAND or name in COMMAND.split("## Options")[1]


def test_every_kernel_has_a_row() -> None:
    folder = kernels.folder()
    rows = re.findall(r"^\| `([^`]+\.cu)`", (folder / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(rows) == sorted(path.name for path in folder.glob("*.cu"))


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_the_readme_python_runs(film: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(film, tmp_path / "rec.mp4")
    assert blocks("python")
    for block in blocks("python"):
        exec(compile(block.replace("every=100", "every=10"), "README.md", "exec"), {})
    assert (tmp_path / "out" / "background_est.png").exists()


def test_the_readme_commands_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`make` and `pip` lines are CI's, a GPU's are test_gpu's; the rest runs, on a film of the README's name."""
    monkeypatch.chdir(tmp_path)
    Arena(width=96, height=72, animals=2).film(tmp_path / "rec.mp4", 90, "mpeg4")  # with several keyframes
    lines = [line for block in blocks("sh") for line in block.splitlines() if line.startswith("gpu-bgstat")]
    assert len(lines) >= 3
    for line in lines:
        words = shlex.split(line, comments=True)[1:]
        if words[0] in ("doctor", "devices") or "--device" in words:
            assert main([words[0], "--help"]) == 0
            continue
        assert main([*words, "--every", "10"]) == 0, line  # the film is short, and the last --every counts


def test_pictures_and_pages_that_the_documents_point_to_exist() -> None:
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} points to {target}"


def test_every_fault_names_tests_that_exist() -> None:
    """docs/reliability.md: each row ends with tests, `file::name`."""
    page = (ROOT / "docs/reliability.md").read_text(encoding="utf-8")
    rows = [line for line in page.split("| fault |")[1].splitlines()[2:] if line.startswith("|")]
    assert len(rows) > 15
    for row in rows:
        named = re.findall(r"`(test_\w+\.py)(?:::(\w+))?`", row)
        assert named, row
        for file, name in named:
            text = (ROOT / "tests" / file).read_text(encoding="utf-8")
            assert re.search(rf"def {name or 'test_'}", text), f"{file}::{name}"
