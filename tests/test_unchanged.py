"""What makes a file unchanged: all that the system tells of it or, failing that, its contents; never less."""

import csv
import os
import shutil
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fext.data import analysis as picture_analysis
from fext.data import images as files_read
from fext.data.analysis import analyze_file
from fext.data.images import FileState, file_state, read_file
from fext.data.source import find_images
from fext.data.unchanged import Remembered, look_again, state_if_same
from fext.errors import TrainingError
from fext.jobs import analyze as analysis
from fext.jobs import choosing
from fext.jobs.choosing import choose_split
from fext.jobs.extract import ExtractionResult, extract
from fext.jobs.pretrain import pretrain, resume
from fext.jobs.verify import Verification, verify
from fext.jobs.view import view
from fext.reporting import SilentReporter, StopRequested
from fext.settings import Settings
from fext.store import files
from fext.store.analyzed import AnalyzedImages
from fext.store.checkpoints import load_checkpoint
from fext.store.index import CheckedImages
from fext.store.parts import find_parts, part_files
from fext.store.workspace import Workspace

pytestmark = pytest.mark.usefixtures("small_model")
QUIET = SilentReporter()
Tiny = Callable[..., Settings]
LONG_AGO = 1_714_564_800_000_000_000
NUM_FRAMES = 6


def frame(number: int) -> str:
    return f"frame{number:03}.bmp"


def write_frames(folder: Path, count: int = NUM_FRAMES) -> None:
    """Frames as an archive restores them: different pictures, all of one size in bytes and one time."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(3)
    for number in range(count):
        Image.fromarray(random.integers(0, 256, (40, 40, 3), np.uint8)).save(folder / frame(number))
        set_time(folder / frame(number))


def set_time(path: Path, time: int = LONG_AGO) -> None:
    os.utime(path, ns=(time, time))


# What is done to a folder of frames so that sizes and times stay, and which of the frames are others then.


def renumber(folder: Path) -> set[str]:
    """The first one goes, the others move up."""
    (folder / frame(0)).unlink()
    for number in range(1, NUM_FRAMES):
        (folder / frame(number)).rename(folder / frame(number - 1))
    return {frame(number) for number in range(NUM_FRAMES - 1)}


def swap(folder: Path) -> set[str]:
    (folder / frame(1)).rename(folder / "aside")
    (folder / frame(2)).rename(folder / frame(1))
    (folder / "aside").rename(folder / frame(2))
    return {frame(1), frame(2)}


def replace(folder: Path, name: str = "") -> set[str]:
    """Another file of equal size, with the time of the one before ('touch -r')."""
    file = folder / (name or frame(3))
    data = file.read_bytes()
    file.unlink()
    file.write_bytes(data[:-300] + bytes(300))
    set_time(file)
    return {file.name}


def write_into(folder: Path) -> set[str]:
    """The same file with other bytes, and its time put back."""
    with (folder / frame(4)).open("r+b") as stream:
        stream.seek(200)
        stream.write(bytes(500))
    set_time(folder / frame(4))
    return {frame(4)}


def restore_others(folder: Path) -> set[str]:
    """An archive of other frames is unpacked over these."""
    archive = folder.parent / "frames.tar"
    with tarfile.open(archive, "w") as tar:
        for number in range(NUM_FRAMES):
            tar.add(folder / frame(number), frame((number + 2) % NUM_FRAMES))
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    return {frame(number) for number in range(NUM_FRAMES)}


# Windows tells when a file was made, not when it was changed: there such need check_contents, as the README says.
NEEDS_TIME_OF_CHANGE = pytest.mark.skipif(sys.platform == "win32", reason="Windows tells of no time of change")
CHANGES = [
    renumber,
    swap,
    replace,
    pytest.param(write_into, marks=NEEDS_TIME_OF_CHANGE),
    pytest.param(restore_others, marks=NEEDS_TIME_OF_CHANGE),
]


# What leaves every frame what it was, whatever the system tells.


def touch(folder: Path) -> None:
    for path in folder.iterdir():
        path.touch()


def copy_over(folder: Path) -> None:
    """The folder is copied to another disk with its times, and takes the old place."""
    shutil.copytree(folder, folder.with_name("copied"))
    shutil.rmtree(folder)
    folder.with_name("copied").rename(folder)


def change_mode(folder: Path) -> None:
    for path in folder.iterdir():
        path.chmod(0o644 if path.stat().st_mode & 0o004 == 0 else 0o640)


def rename_and_back(folder: Path) -> None:
    for path in folder.iterdir():
        path.rename(path.with_suffix(".aside")).rename(path)


def restore(folder: Path) -> None:
    """An archive of the same frames is unpacked over them."""
    archive = folder.parent / "frames.tar"
    with tarfile.open(archive, "w") as tar:
        tar.add(folder, ".")
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")


NO_CHANGES = [touch, copy_over, change_mode, rename_and_back, restore]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny: Tiny, small_model: None) -> Workspace:
    """A workspace with frames and a checkpoint 'model'; tests must not change it."""
    space = Workspace(tmp_path_factory.mktemp("trained"))
    write_frames(space.images)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fext.jobs.pretrain._draw_pictures", lambda run, state: None)
        pretrain(space, tiny(num_train_samples=4, num_test_samples=2), space.images, "model", QUIET)
    return space


@pytest.fixture
def space(trained: Workspace, tmp_path: Path) -> Workspace:
    """A workspace with frames and the checkpoint, for a test to change."""
    space = Workspace(tmp_path / "space")
    write_frames(space.images)
    shutil.copytree(trained.checkpoints, space.checkpoints)
    return space


@pytest.fixture
def files_looked_into(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files whose contents are read."""
    names: list[str] = []
    read = files_read._read

    def watched(path: Path) -> Any:
        names.append(path.name)
        return read(path)

    monkeypatch.setattr(files_read, "_read", watched)
    return names


@pytest.fixture
def telling_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A share that tells of a file no more than its size and the time that it is said to have."""
    monkeypatch.setattr(files_read, "_state", lambda status: FileState(status.st_size, status.st_mtime_ns))


class Telling(SilentReporter):
    """Keeps what a job says."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def message(self, text: str) -> None:
        self.lines.append(text)


def run(
    space: Workspace, settings: Settings, name: str = "table", reporter: SilentReporter = QUIET
) -> ExtractionResult:
    result = extract(space, settings, space.checkpoints / "model", space.images, name, reporter)
    assert result is not None
    return result


def check(space: Workspace, settings: Settings, name: str = "table") -> Verification:
    return verify(space, settings, space.inference / name, True, QUIET)


def records(folder: Path) -> dict[str, dict[str, str]]:
    """The lines of an extraction's or analysis's images.csv by image."""
    with (folder / "images.csv").open(encoding="utf-8", newline="") as stream:
        return {row["image"]: row for row in csv.DictReader(stream)}


def state_of(row: dict[str, str]) -> FileState:
    return FileState(*(int(row[name]) for name in FileState._fields))


# ---------------------------------------------------------------- one file


@pytest.mark.parametrize("change", CHANGES)
def test_a_file_that_keeps_size_and_time_and_holds_something_else_is_noticed(
    tmp_path: Path, change: Callable[[Path], set[str]]
) -> None:
    folder = tmp_path / "frames"
    write_frames(folder)
    known = [Remembered(path, path, *known_of(path)) for path in sorted(folder.iterdir())]
    changed = change(folder)
    for path, state in look_again(known):
        assert state == (None if path.name in changed or not path.exists() else file_state(path))


@pytest.mark.parametrize("handle", NO_CHANGES)
def test_a_file_of_the_same_contents_is_the_same_whatever_the_system_tells_of_it(
    tmp_path: Path, handle: Callable[[Path], None]
) -> None:
    folder = tmp_path / "frames"
    write_frames(folder)
    known = [Remembered(path.name, path, *known_of(path)) for path in sorted(folder.iterdir())]
    handle(folder)
    assert list(look_again(known)) == [(path.name, file_state(path)) for path in sorted(folder.iterdir())]


def known_of(path: Path) -> tuple[FileState, str]:
    data, state = read_file(path)
    return state, files_read.checksum(data)


def test_contents_are_compared_only_where_the_state_is_another_or_that_is_asked_for(
    tmp_path: Path, files_looked_into: list[str]
) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"one")
    state, sha256 = known_of(path)
    files_looked_into.clear()
    assert state_if_same(path, state, sha256) == state
    assert files_looked_into == []
    assert state_if_same(path, state, sha256, by_contents=True) == state
    assert state_if_same(path, state, "0" * 64, by_contents=True) is None
    assert files_looked_into == ["a", "a"]
    path.write_bytes(b"longer")
    assert state_if_same(path, state, sha256) is None  # another size is enough to know
    assert len(files_looked_into) == 2


def test_without_a_checksum_only_the_same_state_is_proof(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"one")
    assert state_if_same(path, file_state(path), "") == file_state(path)
    assert state_if_same(path, file_state(path)._replace(inode=0), "") is None
    assert state_if_same(path, file_state(path), "", by_contents=True) is None


def test_many_files_come_back_in_their_order(tmp_path: Path) -> None:
    paths = [tmp_path / f"{number:03}" for number in range(200)]
    for number, path in enumerate(paths):
        path.write_bytes(b"x" * (number % 7))
    known = []
    for number, path in enumerate(paths):
        state, sha256 = known_of(path)
        known.append(
            Remembered(number, path if number % 5 else None, state._replace(inode=number % 3), sha256, number % 2 == 0)
        )
    found = list(look_again(known))
    assert [number for number, _ in found] == list(range(200))
    assert all((state is None) == (number % 5 == 0) for number, state in found)


@pytest.mark.parametrize(("age", "is_whole_second", "waits"), [(0, False, True), (1, True, True), (1, False, False)])
def test_a_file_is_read_when_a_change_to_it_would_show(
    age: int, is_whole_second: bool, waits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two changes between two ticks of a file system's clock bear the same time, and so does one after the reading."""
    now, slept = LONG_AGO + 10**9, []
    monkeypatch.setattr(files_read.time, "time_ns", lambda: now)
    monkeypatch.setattr(files_read.time, "sleep", slept.append)
    changed = now - age * 10**9 + (0 if is_whole_second else -1)

    class Status:
        st_mtime_ns, st_ctime_ns = LONG_AGO - 10**12, changed

    files_read._let_a_tick_pass(Status())  # type: ignore[arg-type]
    assert bool(slept) is waits
    assert all(0 < seconds <= 2 for seconds in slept)


# ---------------------------------------------------------------- extraction


@pytest.mark.parametrize("change", CHANGES)
def test_images_that_keep_size_and_time_and_hold_something_else_are_encoded_again(
    space: Workspace, tiny: Tiny, change: Callable[[Path], set[str]]
) -> None:
    run(space, tiny())
    changed = change(space.images)
    result = run(space, tiny())
    assert (result.num_changed, result.num_new) == (len(changed), 0)
    fresh = run(space, tiny(), "fresh")
    assert (result.folder / "features.csv").read_bytes() == (fresh.folder / "features.csv").read_bytes()
    assert check(space, tiny()).problems == ()


@pytest.mark.parametrize("handle", NO_CHANGES)
def test_images_of_the_same_contents_are_kept_and_their_contents_are_compared_once(
    space: Workspace, tiny: Tiny, handle: Callable[[Path], None], files_looked_into: list[str]
) -> None:
    folder = run(space, tiny()).folder
    table, before = file_state(folder / "features.csv"), records(folder)
    handle(space.images)
    handled = [name for name, row in before.items() if state_of(row) != file_state(space.images / name)]
    files_looked_into.clear()
    reporter = Telling()
    result = run(space, tiny(), reporter=reporter)
    assert (result.num_kept, result.num_changed, result.num_new) == (NUM_FRAMES, 0, 0)
    assert sorted(files_looked_into) == handled
    told = f"({len(handled)} files touched, copied or moved: the contents are the same)"
    assert (told in reporter.lines) == bool(handled)
    assert file_state(folder / "features.csv") == table  # a table of any size is not written again for that
    for name, row in records(folder).items():
        assert state_of(row) == file_state(space.images / name)
        assert (row["sha256"], row["row_sha256"]) == (before[name]["sha256"], before[name]["row_sha256"])
    files_looked_into.clear()
    assert run(space, tiny()).num_kept == NUM_FRAMES
    assert files_looked_into == []
    assert not (folder / "unfinished").exists()
    assert check(space, tiny()).problems == ()


def test_kept_changed_and_new_images_come_together(space: Workspace, tiny: Tiny) -> None:
    (space.images / "no_image.bmp").write_bytes(b"no image")
    run(space, tiny())
    touch(space.images)
    changed = swap(space.images)
    shutil.copy(space.images / frame(0), space.images / "new.bmp")
    result = run(space, tiny())
    assert (result.num_kept, result.num_changed, result.num_new) == (NUM_FRAMES + 1 - len(changed), len(changed), 1)
    fresh = run(space, tiny(), "fresh")
    for name in ("features.csv", "images.csv", "rejected.csv"):
        assert (result.folder / name).read_bytes() == (fresh.folder / name).read_bytes()


class Stopping(SilentReporter):
    """Asks to stop at the first batch."""

    def progress(self, title: str, total: int) -> Any:
        return super().progress(title, total) if title != "extracting" else _Stop()


class _Stop:
    def __enter__(self) -> "_Stop":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def advance(self, count: int = 1, note: str = "") -> None:
        raise StopRequested


def test_what_was_compared_before_a_stop_is_not_compared_again(
    space: Workspace, tiny: Tiny, files_looked_into: list[str]
) -> None:
    run(space, tiny())
    touch(space.images)
    changed = swap(space.images)
    with pytest.raises(StopRequested):
        run(space, tiny(), reporter=Stopping())
    files_looked_into.clear()
    result = run(space, tiny())
    assert (result.num_kept, result.num_changed) == (NUM_FRAMES, 0)  # the stop came when the batch was done
    assert files_looked_into == []
    assert set(records(result.folder)) >= changed
    assert check(space, tiny()).problems == ()


@pytest.mark.parametrize("change", [swap, touch])
def test_files_handled_while_an_extraction_is_stopped_are_looked_at_too(
    space: Workspace, tiny: Tiny, change: Callable[[Path], set[str] | None]
) -> None:
    with pytest.raises(StopRequested):
        run(space, tiny(), reporter=Stopping())  # after the first four
    changed = (change(space.images) or set()) & {frame(number) for number in range(4)}
    result = run(space, tiny())
    assert (result.num_kept, result.num_changed, result.num_new) == (4 - len(changed), len(changed), NUM_FRAMES - 4)
    assert check(space, tiny()).problems == ()


@pytest.mark.usefixtures("telling_nothing")
@pytest.mark.parametrize("check_contents", [True, False])
def test_where_the_system_tells_too_little_check_contents_finds_what_changed(
    space: Workspace, tiny: Tiny, check_contents: bool
) -> None:
    settings = tiny(check_contents=check_contents)
    run(space, settings)
    changed = swap(space.images)
    assert run(space, settings).num_changed == (len(changed) if check_contents else 0)
    told = {f"image {name} is not the file any more that was encoded" for name in changed}
    assert set(check(space, settings).problems) == (set() if check_contents else told)


def test_a_table_of_an_earlier_version_is_read_and_its_rows_are_proven_by_encoding_them_once(
    space: Workspace, tiny: Tiny
) -> None:
    folder = run(space, tiny()).folder
    columns = ("image", "status", "size", "modified", "row_sha256")
    rows = [[row[column] for column in columns] for row in records(folder).values()]
    files.write_csv(folder / "images.csv", columns, rows)
    manifest = files.read_json(folder / "manifest.json")
    files.write_json(folder / "manifest.json", {key: manifest[key] for key in manifest.keys() - {"images_sha256"}})
    verified = check(space, tiny())
    assert verified.problems == ()
    assert any("an earlier version kept no checksum of 6 images" in note for note in verified.notes)
    reporter = Telling()
    result = run(space, tiny(), reporter=reporter)
    assert (result.num_kept, result.num_unproven, result.num_changed) == (0, NUM_FRAMES, 0)
    assert any("encoded anew, this once" in line for line in reporter.lines)
    assert run(space, tiny()).num_kept == NUM_FRAMES


def test_a_stopped_extraction_of_an_earlier_version_goes_on(space: Workspace, tiny: Tiny) -> None:
    with pytest.raises(StopRequested):
        run(space, tiny(), reporter=Stopping())
    unfinished = space.inference / "table" / "unfinished"
    journal, _ = part_files(unfinished, *find_parts(unfinished)[0])
    with journal.open(encoding="utf-8", newline="") as stream:
        lines = [",".join((*cells[:4], *cells[-2:])) for cells in csv.reader(stream)]
    journal.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="")
    result = run(space, tiny())
    assert (result.num_kept, result.num_unproven, result.num_new) == (0, 4, NUM_FRAMES - 4)
    assert check(space, tiny()).problems == ()


# ---------------------------------------------------------------- what is remembered of images


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that the analysis and the choice of images decode."""
    names: list[str] = []

    def watched(function: Callable[[Path], Any]) -> Callable[[Path], Any]:
        def look(path: Path) -> Any:
            names.append(path.name)
            return function(path)

        return look

    monkeypatch.setattr(analysis, "analyze_file", watched(picture_analysis.analyze_file))
    monkeypatch.setattr(choosing, "look_at_file", watched(choosing.look_at_file))
    return names


@pytest.fixture
def no_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """The analysis writes its tables alone."""
    monkeypatch.setattr(analysis, "_draw", lambda folder, found: None)
    monkeypatch.setattr(analysis, "_FILES", ("images.csv",))


@pytest.mark.usefixtures("no_pages")
@pytest.mark.parametrize("change", [swap, replace, copy_over, touch])
def test_an_analysis_looks_at_what_holds_something_else_and_at_nothing_more(
    space: Workspace, tiny: Tiny, change: Callable[[Path], set[str] | None], decoded: list[str]
) -> None:
    settings = tiny(num_processors=1)
    (space.images / "no_image.bmp").write_bytes(b"no image")
    analysis.analyze(space, settings, space.images, QUIET)
    decoded.clear()
    changed = change(space.images) or set()
    result = analysis.analyze(space, settings, space.images, QUIET)
    assert set(decoded) == changed
    assert (result.num_new, result.has_changed) == (len(changed), bool(changed))
    for name, row in records(space.validation).items():
        assert row["sha256"] == files_read.checksum((space.images / name).read_bytes())


@pytest.mark.usefixtures("no_pages", "telling_nothing")
def test_an_analysis_with_check_contents_needs_no_times(space: Workspace, tiny: Tiny, decoded: list[str]) -> None:
    settings = tiny(num_processors=1, check_contents=True)
    analysis.analyze(space, settings, space.images, QUIET)
    decoded.clear()
    changed = swap(space.images)
    analysis.analyze(space, settings, space.images, QUIET)
    assert set(decoded) == changed


@pytest.mark.parametrize("change", [swap, renumber, copy_over])
def test_images_are_chosen_by_what_they_hold_now(
    space: Workspace, tiny: Tiny, change: Callable[[Path], set[str] | None], decoded: list[str]
) -> None:
    settings = tiny(num_processors=1, num_train_samples=4, num_test_samples=2)
    choose_split(space, settings, find_images(space.images), QUIET)
    decoded.clear()
    changed = change(space.images) or set()
    chosen = choose_split(space, settings, find_images(space.images), QUIET)
    assert set(decoded) == changed
    for name, sha256 in chosen.checksums().items():
        assert sha256 == files_read.checksum((space.images / name).read_bytes())


@pytest.mark.usefixtures("telling_nothing", "no_pictures")
def test_a_new_run_takes_images_for_what_they_hold_even_where_the_system_tells_too_little(
    space: Workspace, tiny: Tiny, decoded: list[str]
) -> None:
    settings = tiny(num_processors=1, num_train_samples=4, num_test_samples=2)
    choose_split(space, settings, find_images(space.images), QUIET)
    decoded.clear()
    changed = swap(space.images)
    assert pretrain(space, settings, space.images, "second", QUIET) is not None
    assert set(decoded) == changed
    decoded.clear()
    assert pretrain(space, settings, space.images, "third", QUIET) is not None
    assert decoded == []
    replace(space.images, load_checkpoint(space.checkpoints / "third").split().train[0])
    with pytest.raises(TrainingError, match=r"put it back and resume third, or train a new model"):
        resume(tiny(), space.checkpoints / "third", 2, QUIET)


def memories(space: Workspace, by_contents: bool) -> Iterator[CheckedImages | AnalyzedImages]:
    for memory in (
        CheckedImages(space.checked_images, by_contents),
        AnalyzedImages(space.analyzed_images, by_contents),
    ):
        yield memory
        memory.close()


@pytest.mark.parametrize("by_contents", [False, True])
def test_a_memory_compares_contents_no_more_than_once_in_a_run(
    space: Workspace, by_contents: bool, files_looked_into: list[str]
) -> None:
    paths = [space.images / frame(number) for number in range(NUM_FRAMES)]
    found = [analyze_file(path) for path in paths]
    for memory in memories(space, by_contents):
        if isinstance(memory, AnalyzedImages):
            memory.remember(zip(paths, found, strict=True))
        else:
            memory.remember(
                (path, one.state, analysis._as_checked(one)) for path, one in zip(paths, found, strict=True)
            )
    touch(space.images)
    for memory in memories(space, by_contents):
        files_looked_into.clear()
        assert memory.recall(paths[0]) is not None
        assert list(memory.knows(paths)) == [True] * NUM_FRAMES
        assert list(memory.knows(paths)) == [True] * NUM_FRAMES
        assert memory.recall(paths[1]) is not None
        assert sorted(files_looked_into) == [path.name for path in paths]
    for memory in memories(space, by_contents):
        files_looked_into.clear()
        assert all(memory.knows(paths))
        assert len(files_looked_into) == (NUM_FRAMES if by_contents else 0)
    swap(space.images)
    for memory in memories(space, by_contents):
        assert [memory.recall(path) is not None for path in paths] == [True, False, False, True, True, True]


# ---------------------------------------------------------------- the page of an extraction


def test_only_an_image_that_holds_something_else_is_said_to_have_changed(space: Workspace, tiny: Tiny) -> None:
    folder = run(space, tiny()).folder
    for change, number in ((copy_over, 0), (swap, 2)):
        change(space.images)
        page = view(space, tiny(num_processors=1), folder, QUIET).file.read_text(encoding="utf-8")
        assert page.count("changed since the extraction") == number
