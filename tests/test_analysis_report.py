"""The report of an analysis: what was found, for a person to look at, in one file."""

import os
import re
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from conftest import write_images
from test_analysis import plant
from test_page import Reader
from test_view import Page

from fext.jobs import analyze as analysis
from fext.jobs.analysis_report import write_pages
from fext.jobs.analyze import analyze
from fext.pictures import dataset_report
from fext.reporting import SilentReporter
from fext.settings import Settings
from fext.store.workspace import Workspace

Report = Callable[[Workspace], Reader]


@pytest.fixture
def report(tiny: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch) -> Report:
    """Analyzes the images of a workspace, draws nothing but the report, and reads that."""
    monkeypatch.setattr(analysis, "_draw", lambda folder, found: write_pages(folder, found))

    def make(space: Workspace) -> Reader:
        analyze(space, tiny(num_processors=1), space.images, SilentReporter())
        return Reader((space.validation / "report.html").read_text(encoding="utf-8"))

    return make


def test_the_report_names_whatever_was_found_and_why(tmp_path: Path, report: Report) -> None:
    space = Workspace(tmp_path)
    planted = plant(space.images)
    found = report(space)
    for kind, names in planted.items():
        assert f"{kind.capitalize()}: {len(names)}." in found.text
        assert all(name in found.text for name in names)
    assert "the file is empty" in found.text
    assert {"dark.png", "white.png", "grey.png", "image_000.png", "same.png", "recompressed.jpg"} <= {
        image["alt"] for image in found.attributes("img")
    }


def test_a_dataset_without_fault_is_said_to_be_so(workspace: Workspace, report: Report) -> None:
    text = report(workspace).text
    assert "nothing needs to be done" in text
    assert "None: every image can be decoded." in text


def test_each_measure_has_a_plot_with_its_meaning_train_beside_test(workspace: Workspace, report: Report) -> None:
    found = report(workspace)
    for measure in dataset_report.MEASURES:
        assert measure.meaning in found.text
        assert f"Histogram of {measure.title}" in {canvas.get("aria-label") for canvas in found.attributes("div")}
    assert found.scripts.count('"name":"train"') == found.scripts.count('"name":"test"') == len(dataset_report.MEASURES)


def test_a_name_that_is_code_is_shown_and_not_run(tmp_path: Path, report: Report) -> None:
    space = Workspace(tmp_path)
    folder = "<script>alert(1)<" if os.name != "nt" else "&lt;script&gt;"
    write_images(space.images / folder, 1)
    write_images(space.images, 1)  # its copy
    found = report(space)
    assert f"{folder}/image_000.png" in {image["alt"] for image in found.attributes("img")}
    assert f"of {folder}/image_000.png" in found.text
    assert "<script>" not in "".join(re.findall(r'"text":\[.*?\]', found.scripts))


def test_the_same_images_make_the_same_report(workspace: Workspace, report: Report) -> None:
    report(workspace)
    file = workspace.validation / "report.html"
    before = file.read_bytes()
    file.unlink()
    report(workspace)
    assert file.read_bytes() == before


def test_what_is_left_out_is_counted_and_its_table_named(
    tmp_path: Path, report: Report, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataset_report, "NUM_SHOWN", 2)
    monkeypatch.setattr(dataset_report, "NUM_GROUPS", 1)
    monkeypatch.setattr(dataset_report, "NUM_ROWS", 3)
    monkeypatch.setattr(dataset_report, "_NUM_POINTS", 5)
    space = Workspace(tmp_path)
    plant(space.images)
    text = report(space).text
    assert "2 of 4 odd pictures are shown; findings.csv names all." in text
    assert "1 of 2 groups are shown; duplicates.csv names all." in text
    assert "the first 3 of 9; all are in findings.csv" in text
    assert "5 of 18 images, evenly chosen" in text


def test_the_viewer_has_every_image_with_its_side_and_what_was_found_of_it(tmp_path: Path, report: Report) -> None:
    space = Workspace(tmp_path)
    planted = plant(space.images)
    report(space)
    page = Page(space.validation / "viewer.html")
    assert page.names == sorted(file.name for file in space.images.iterdir())
    assert page.images["empty.png"][2] == "the file is empty"
    for kind in ("exact copy", "near copy", "nearly black"):
        for name in planted[kind]:
            assert any(line.startswith(f"{kind}: ") for line in page.images[name][1])
    rows = pd.read_csv(space.validation / "images.csv", keep_default_na=False)
    for name, subset in zip(rows["image"], rows["subset"], strict=True):
        sides = [line for line in page.images[name][1] if line in ("train", "validation", "test")]
        assert sides == [subset] * bool(subset)
