"""What the README says is what the program does."""

import importlib
import re
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY

from fext.screen.commands import make_parser
from fext.settings import settings_table

README = (REPOSITORY / "README.md").read_text(encoding="utf-8")


def test_the_table_of_settings_is_the_one_made_from_the_settings() -> None:
    shown = README.split("<!-- settings -->\n")[1].split("<!-- end of settings -->")[0]
    assert shown == settings_table()


def test_every_command_in_the_readme_is_understood() -> None:
    commands = re.findall(r"`python featext\.py ([^`]*)`", README)
    assert len(commands) == 28
    for command in commands:
        words = command.replace("[", "").replace("]", "").replace(" N", " 3").replace(" K", " 3").split()
        assert make_parser().parse_args(words).command == words[0]


@pytest.mark.skipif(sys.platform == "win32", reason="one of them asks for memory as Windows does not tell it")
def test_every_benchmark_that_its_readme_names_can_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    text = (REPOSITORY / "benchmarks" / "README.md").read_text(encoding="utf-8")
    monkeypatch.syspath_prepend(REPOSITORY)
    names = set(re.findall(r"python -m (benchmarks\.\w+)", text))
    assert len(names) == 8
    for name in names:
        assert callable(importlib.import_module(name).main)


def test_every_picture_and_file_that_the_readme_names_is_there() -> None:
    for path in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", README):
        assert (REPOSITORY / path).is_file()
    for path in (
        "configurations.py",
        "requirements.txt",
        "requirements-openvino.txt",
        "requirements-development.txt",
        "Makefile",
        "LICENSE",
    ):
        assert (REPOSITORY / path).is_file()


def test_every_package_that_is_required_has_its_line_in_the_readme() -> None:
    required = [
        re.match(r"[\w-]+", line)
        for line in (REPOSITORY / "requirements.txt").read_text(encoding="utf-8").splitlines()
        if line and not line.startswith("#")
    ]
    for name in required:
        assert name is not None
        assert re.search(rf"\| ([\w-]+, )*{name.group()}(, [\w-]+)* \|", README), name.group()


def test_the_makefile_has_the_targets_that_the_readme_names() -> None:
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    for target in ("demo", "test", "run"):
        assert f"make {target}" in README
        assert re.search(rf"(?m)^{target}:", makefile), target


def test_this_python_is_among_those_the_readme_names() -> None:
    first, last = re.search(r"Python 3\.(\d+) to 3\.(\d+)", README).groups()  # type: ignore[union-attr]
    assert int(first) <= sys.version_info.minor <= int(last)
    assert f'requires-python = ">=3.{first}"' in Path(REPOSITORY / "pyproject.toml").read_text(encoding="utf-8")
