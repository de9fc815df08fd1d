"""The catalogue says what the files say, can be made again at any time, and while others read it."""

import json
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pandas as pd
import pytest
from conftest import write_images

from fext.errors import FextError
from fext.jobs.analyze import analyze
from fext.jobs.evaluate import evaluate
from fext.jobs.extract import extract
from fext.jobs.pretrain import pretrain
from fext.reporting import SilentReporter
from fext.settings import Settings
from fext.store.catalogue import write_catalogue
from fext.store.workspace import Workspace

pytestmark = pytest.mark.usefixtures("small_model")
QUIET = SilentReporter()


@pytest.fixture(scope="module")
def done(
    tmp_path_factory: pytest.TempPathFactory,
    tiny: Callable[..., Settings],
    small_model: None,
    no_pictures_in_module: None,
) -> Workspace:
    """A workspace in which everything has been done once."""
    space, settings = Workspace(tmp_path_factory.mktemp("done")), tiny(num_processors=1, picture_shape=(64, 64, 1))
    write_images(space.images, 12)
    (space.images / "empty.png").write_bytes(b"")
    shutil.copy(space.images / "image_000.png", space.images / "a copy, with a comma.png")
    analyze(space, settings, space.images, QUIET)
    pretrain(space, settings, space.images, "model", QUIET)
    evaluate(space, settings, space.checkpoints / "model", None, QUIET)
    extract(space, settings, space.checkpoints / "model", space.images, "table", QUIET)
    return space


@pytest.fixture
def space(done: Workspace, tmp_path: Path) -> Workspace:
    """A copy of it to change."""
    shutil.copytree(done.root, tmp_path / "copy")
    return Workspace(tmp_path / "copy")


def query(space: Workspace, question: str) -> pd.DataFrame:
    with closing(sqlite3.connect(space.catalogue)) as database:
        return pd.read_sql(question, database)


def content(space: Workspace) -> Iterator[str]:
    with closing(sqlite3.connect(space.catalogue)) as database:
        yield from database.iterdump()


def test_the_tables_hold_what_the_files_hold(space: Workspace) -> None:
    write_catalogue(space)
    images = pd.read_csv(space.validation / "images.csv", keep_default_na=False)
    stored = query(space, "SELECT * FROM images")
    assert list(stored["image"]) == list(images["image"])
    assert stored["mean"].tolist() == images["mean"].tolist()
    assert stored["width"].tolist() == images["width"].tolist()
    assert query(space, "SELECT image FROM rejected_images")["image"].tolist() == ["empty.png"]
    assert query(space, "SELECT finding FROM findings")["finding"].tolist() == ["damaged", "exact copy"]
    rows = pd.read_csv(space.inference / "table" / "images.csv")
    assert query(space, "SELECT image FROM extracted_images")["image"].tolist() == rows["image"].tolist()
    history = pd.read_csv(space.checkpoints / "model" / "history.csv")
    stored = query(space, "SELECT validation_loss FROM history")
    assert stored["validation_loss"].tolist() == history["validation_loss"].tolist()
    split = pd.read_csv(space.checkpoints / "model" / "split.csv")
    assert query(space, "SELECT image, subset, sha256 FROM splits").to_dict() == split.to_dict()
    assert query(space, "SELECT epoch_chosen_by FROM checkpoints")["epoch_chosen_by"].tolist() == ["validation"]


def test_models_scores_and_tables_can_be_joined(space: Workspace) -> None:
    write_catalogue(space)
    found = query(
        space,
        """SELECT c.checkpoint, c.latent_channels, e.mean, x.num_written FROM checkpoints c
           JOIN evaluations e ON e.checkpoint = c.checkpoint JOIN extractions x ON x.sha256 = c.sha256
           WHERE e.method = 'model' AND e.score = 'psnr' AND e.subset = 'test'""",
    )
    summary = json.loads((space.checkpoints / "model" / "evaluation" / "summary.json").read_text(encoding="utf-8"))
    assert found.to_dict("list") == {
        "checkpoint": ["model"],
        "latent_channels": [512],
        "mean": [summary["subsets"]["test"]["model"]["psnr"]["mean"]],
        "num_written": [13],
    }


def test_a_name_of_digits_stays_a_name(space: Workspace) -> None:
    table = space.validation / "images.csv"
    table.write_text(table.read_text(encoding="utf-8").replace("image_003.png", "0070"), encoding="utf-8")
    write_catalogue(space)
    assert "0070" in query(space, "SELECT image FROM images")["image"].tolist()


def test_deleted_and_made_again_it_is_the_same(space: Workspace) -> None:
    first = write_catalogue(space)
    before = list(content(space))
    space.catalogue.unlink()
    assert write_catalogue(space).num_rows == first.num_rows
    assert list(content(space)) == before


def test_who_reads_it_while_it_is_made_anew_reads_on(space: Workspace) -> None:
    write_catalogue(space)
    with closing(sqlite3.connect(space.catalogue)) as reader:
        rows = reader.execute("SELECT image FROM images")
        first = rows.fetchone()
        write_catalogue(space)
        assert len([first, *rows]) == len(query(space, "SELECT image FROM images"))


def test_a_damaged_file_is_named_and_the_rest_is_there(space: Workspace) -> None:
    (space.checkpoints / "model" / "model.json").write_text("{", encoding="utf-8")
    (space.inference / "table" / "images.csv").unlink()
    result = write_catalogue(space)
    assert len(result.problems) == 2
    assert "model.json cannot be read" in result.problems[0]
    assert "images.csv cannot be read" in result.problems[1]
    assert result.num_rows["images"] == 13
    assert not {"checkpoints", "extractions"} & set(result.num_rows)
    assert result.num_rows["evaluated_images"] == 12


def test_an_edited_file_is_named_too(space: Workspace) -> None:
    (space.checkpoints / "model" / "evaluation" / "summary.json").write_text("[]", encoding="utf-8")
    (space.validation / "outliers.csv").write_text("image,measure\n1,2,3\n", encoding="utf-8")
    result = write_catalogue(space)
    assert "outliers.csv cannot be read" in result.problems[0]
    assert "model holds a file that is not as FeXT writes it" in result.problems[1]
    assert "images" not in result.num_rows


def test_where_nothing_is_done_the_catalogue_is_empty(tmp_path: Path) -> None:
    assert write_catalogue(Workspace(tmp_path)).num_rows == {}
    assert Workspace(tmp_path).catalogue.is_file()


def test_one_that_cannot_be_written_leaves_what_was_there(space: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    write_catalogue(space)
    before = list(content(space))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("fext.store.files.replace", full)
        with pytest.raises(FextError, match=r"fext.sqlite cannot be written: .*No space left"):
            write_catalogue(space)
    assert list(content(space)) == before
    assert [file.name for file in space.catalogue.parent.glob(".*")] == []
