"""The catalogue: what the files of analysis, checkpoints, evaluations and extractions say, in one SQLite database.

The files stay the truth. The catalogue is made from them, as a new file that is moved into place, and is there to be
read by pandas, DuckDB or a database browser.
"""

import csv
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fext.errors import FextError
from fext.store import files
from fext.store.workspace import Workspace

_TEXT = {
    "checkpoint", "extraction", "source", "architecture", "image", "subset", "format", "mode", "sha256", "reason",
    "finding", "detail", "likeness", "measure", "method", "score", "status", "row_sha256", "device", "precision",
    "engine", "epoch_chosen_by",
}  # fmt: skip
_STATISTICS = ("mean", "mean_low", "mean_high", "std", "min", "max")


@dataclass(frozen=True)
class CatalogueResult:
    """Where the catalogue stands, how many rows each of its tables has, and which files could not be read."""

    file: Path
    num_rows: dict[str, int]
    problems: tuple[str, ...]


def write_catalogue(workspace: Workspace) -> CatalogueResult:
    """Make the catalogue anew from the files; raises FextError where it cannot be written."""
    file = workspace.catalogue
    draft = file.with_name(f".{file.name}.{os.getpid()}.partial")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        draft.unlink(missing_ok=True)
        with closing(sqlite3.connect(draft)) as database, database:
            filler = _Filler(database)
            problems = _fill(filler, workspace)
            num_rows = filler.num_rows()
        files.replace(draft, file)
    except (OSError, sqlite3.Error) as error:
        raise FextError(f"{file} cannot be written: {error}; what was there is kept") from error
    finally:
        with suppress(OSError):
            draft.unlink(missing_ok=True)
    return CatalogueResult(file, num_rows, problems)


class _Filler:
    """Adds rows to tables, which it makes as they come; a column that comes later is empty in earlier rows."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database

    @contextmanager
    def all_or_nothing(self) -> Iterator[None]:
        """What is added in this context is taken back where it ends with an error."""
        self._database.execute("SAVEPOINT part")
        try:
            yield
        except BaseException:
            self._database.execute("ROLLBACK TO part")
            raise
        finally:
            self._database.execute("RELEASE part")

    def add(self, table: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        """Add rows; the columns of numbers hold whole ones as such (NUMERIC is SQLite's word for that)."""
        known = [row[1] for row in self._database.execute(f"PRAGMA table_info({table})")]
        declared = {name: f"{_quoted(name)} {'TEXT' if name in _TEXT else 'NUMERIC'}" for name in columns}
        if not known:
            self._database.execute(f"CREATE TABLE {table} ({', '.join(declared.values())})")
        for name in declared if known else ():
            if name not in known:
                self._database.execute(f"ALTER TABLE {table} ADD COLUMN {declared[name]}")
        names, marks = ", ".join(map(_quoted, columns)), ", ".join("?" * len(columns))
        self._database.executemany(f"INSERT INTO {table} ({names}) VALUES ({marks})", rows)

    def num_rows(self) -> dict[str, int]:
        """How many rows each table has."""
        tables = [row[0] for row in self._database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {table: self._database.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0] for table in tables}


def _quoted(column: str) -> str:
    return '"' + column.replace('"', '""') + '"'


def _fill(filler: _Filler, workspace: Workspace) -> tuple[str, ...]:
    """Add all there is; returns what could not be read."""
    parts: list[tuple[Callable[[_Filler, Path], None], Path]] = [(_add_analysis, workspace.validation)]
    for name in workspace.checkpoint_names():
        parts += [(_add_checkpoint, workspace.checkpoints / name), (_add_evaluation, workspace.checkpoints / name)]
    parts += [(_add_extraction, workspace.inference / name) for name in workspace.extraction_names()]
    problems = []
    for add, folder in parts:
        try:
            with filler.all_or_nothing():
                add(filler, folder)
        except FextError as error:
            problems.append(str(error))
        except (KeyError, TypeError, ValueError, AttributeError) as error:  # somebody has edited a file
            problems.append(f"{folder} holds a file that is not as FeXT writes it: {error!r}")
    return tuple(problems)


def _add_analysis(filler: _Filler, folder: Path) -> None:
    if not (folder / "summary.json").is_file():
        return
    source = files.read_json(folder / "summary.json")["source"]
    for table, file in (
        ("images", "images.csv"),
        ("rejected_images", "rejected.csv"),
        ("findings", "findings.csv"),
        ("duplicates", "duplicates.csv"),
        ("outliers", "outliers.csv"),
    ):
        _add_csv(filler, table, folder / file, {"source": source})


def _add_checkpoint(filler: _Filler, folder: Path) -> None:
    described = files.read_json(folder / "model.json")
    latent, shape = described["latent_shape"], described["preprocessing"]
    row = {
        "checkpoint": folder.name,
        "architecture": described["plan"]["architecture"],
        "source": described["source"],
        "sha256": described["weights_sha256"],
        "epoch_chosen_by": described["training"].get("epoch_chosen_by", "test"),
        "height": shape["height"],
        "width": shape["width"],
        "channels": shape["channels"],
        "latent_rows": latent["rows"],
        "latent_columns": latent["columns"],
        "latent_channels": latent["channels"],
        **{key: value for key, value in described["training"].items() if isinstance(value, int | float)},
    }
    filler.add("checkpoints", list(row), [tuple(row.values())])
    _add_csv(filler, "history", folder / "history.csv", {"checkpoint": folder.name})
    _add_csv(filler, "splits", folder / "split.csv", {"checkpoint": folder.name})


def _add_evaluation(filler: _Filler, folder: Path) -> None:
    evaluation = folder / "evaluation"
    if not (evaluation / "summary.json").is_file():
        return
    rows = [
        (
            folder.name,
            subset,
            found["num_images"],
            method,
            score,
            *(values.get(key) for key in _STATISTICS),
        )
        for subset, found in files.read_json(evaluation / "summary.json")["subsets"].items()
        for method, scores in found.items()
        if isinstance(scores, dict)
        for score, values in scores.items()
    ]
    columns = ("checkpoint", "subset", "num_images", "method", "score", *_STATISTICS)
    filler.add("evaluations", columns, rows)
    _add_csv(filler, "evaluated_images", evaluation / "per_image.csv", {"checkpoint": folder.name})


def _add_extraction(filler: _Filler, folder: Path) -> None:
    if not (folder / "manifest.json").is_file():  # one that was stopped has no table yet
        return
    manifest = files.read_json(folder / "manifest.json")
    row = {
        "extraction": folder.name,
        "checkpoint": manifest["checkpoint"]["name"],
        "sha256": manifest["checkpoint"]["sha256"],
        "source": manifest["source"],
        "feature_grid": manifest["feature_grid"],
        "num_features": manifest["num_features"],
        **{f"num_{key}": manifest["counts"][key] for key in ("found", "written", "rejected")},
        **{key: manifest["computed_by"][key] for key in ("device", "precision", "engine")},
    }
    filler.add("extractions", list(row), [tuple(row.values())])
    _add_csv(filler, "extracted_images", folder / "images.csv", {"extraction": folder.name})


def _add_csv(filler: _Filler, table: str, path: Path, belongs_to: dict[str, str]) -> None:
    """The rows of a CSV that FeXT wrote, each with what it belongs to; empty cells become NULL."""
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            rows = csv.reader(stream, strict=True)
            header = next(rows)
            filler.add(table, [*belongs_to, *header], _with(tuple(belongs_to.values()), rows))
    except (OSError, UnicodeDecodeError, csv.Error, StopIteration, sqlite3.ProgrammingError) as error:
        raise FextError(f"{path} cannot be read: {error}") from error


def _with(owner: tuple[str, ...], rows: Iterable[list[str]]) -> Iterator[tuple[str | None, ...]]:
    return ((*owner, *(cell or None for cell in row)) for row in rows)
