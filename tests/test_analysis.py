"""Analysis of a dataset: every image measured once, every copy and odd picture named, nothing done twice."""

import io
import json
import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import imagehash
import numpy as np
import pandas as pd
import pytest
from conftest import write_images
from PIL import Image, ImageOps

from fext.data.analysis import analyze_file
from fext.data.looks import look_at_file
from fext.data.source import find_images
from fext.data.statistics import MEASURES
from fext.errors import SourceError
from fext.jobs import analyze as analysis
from fext.jobs import choosing
from fext.jobs.analyze import analyze
from fext.jobs.choosing import choose_split
from fext.reporting import SilentReporter
from fext.settings import Settings
from fext.store.index import CheckedImages
from fext.store.workspace import Workspace

Tiny = Callable[..., Settings]


@pytest.fixture
def settings(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """One process, and no pictures, which take longer than all the rest."""
    monkeypatch.setattr(analysis, "_draw", lambda *parts: None)
    monkeypatch.setattr(analysis, "_FILES", ())
    return tiny(num_processors=1)


@pytest.fixture
def looked_at(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are decoded, as they are."""
    names: list[str] = []

    def watched(path: Path) -> object:
        names.append(path.name)
        return analyze_file(path)

    monkeypatch.setattr(analysis, "analyze_file", watched)
    return names


def table(space: Workspace, name: str) -> pd.DataFrame:
    return pd.read_csv(space.validation / name, keep_default_na=False)


def findings(space: Workspace) -> dict[str, set[str]]:
    """The names of the images by what was found of them."""
    found = table(space, "findings.csv")
    return {kind: set(rows["image"]) for kind, rows in found.groupby("finding")}


def test_every_image_has_a_row_with_every_measure(workspace: Workspace, settings: Settings) -> None:
    result = analyze(workspace, settings, workspace.images, SilentReporter())
    rows = table(workspace, "images.csv")
    assert list(rows["image"]) == sorted(file.name for file in workspace.images.iterdir())
    assert {measure.name for measure in MEASURES} <= set(rows.columns)
    assert set(rows["format"]) == {"PNG"}
    assert set(rows["mode"]) == {"RGB"}
    assert set(zip(rows["width"], rows["height"], strict=True)) == {(80, 64)}
    assert rows["file_size"][0] == (workspace.images / rows["image"][0]).stat().st_size
    with Image.open(workspace.images / rows["image"][0]) as picture:
        grey = np.asarray(picture) / 255 @ [0.2125, 0.7154, 0.0721]
    assert rows["mean"][0] == pytest.approx(grey.mean(), rel=1e-4)
    assert (result.num_found, result.num_new, result.num_good, result.num_rejected) == (12, 12, 12, 0)


def test_all_that_is_promised_is_written(workspace: Workspace, tiny: Tiny) -> None:
    analyze(workspace, tiny(num_processors=1), workspace.images, SilentReporter())
    assert set(analysis._FILES) <= {file.name for file in workspace.validation.iterdir()}
    for name in (name for name in analysis._FILES if name.endswith(".png")):
        with Image.open(workspace.validation / name) as picture:
            assert picture.width > 500


def test_a_second_run_decodes_and_writes_nothing(
    workspace: Workspace, settings: Settings, looked_at: list[str]
) -> None:
    (workspace.images / "empty.png").touch()
    (workspace.images / "text.jpg").write_text("no picture", encoding="utf-8")
    first = analyze(workspace, settings, workspace.images, SilentReporter())
    times = {file: file.stat().st_mtime_ns for file in workspace.validation.glob("*.[cpj]*")}
    looked_at.clear()
    second = analyze(workspace, settings, workspace.images, SilentReporter())
    assert looked_at == []
    assert (first.has_changed, second.has_changed) == (True, False)
    assert second.num_new == 0
    assert second.findings == first.findings
    assert times == {file: file.stat().st_mtime_ns for file in workspace.validation.glob("*.[cpj]*")}


def test_a_table_that_was_removed_is_written_again(workspace: Workspace, tiny: Tiny) -> None:
    analyze(workspace, tiny(num_processors=1), workspace.images, SilentReporter())
    before = (workspace.validation / "images.csv").read_bytes()
    (workspace.validation / "images.csv").unlink()
    result = analyze(workspace, tiny(num_processors=1), workspace.images, SilentReporter())
    assert (result.num_new, result.has_changed) == (0, True)
    assert (workspace.validation / "images.csv").read_bytes() == before


@pytest.mark.parametrize("damage", ["", "{", "[1, 2]", '{"fingerprint": 3}', "\0\0"])
def test_a_damaged_summary_is_written_again(workspace: Workspace, settings: Settings, damage: str) -> None:
    analyze(workspace, settings, workspace.images, SilentReporter())
    summary = workspace.validation / "summary.json"
    before = summary.read_bytes()
    summary.write_text(damage, encoding="utf-8")
    assert analyze(workspace, settings, workspace.images, SilentReporter()).has_changed
    assert summary.read_bytes() == before


def test_only_new_and_changed_files_are_decoded_and_deleted_ones_leave(
    workspace: Workspace, settings: Settings, looked_at: list[str]
) -> None:
    analyze(workspace, settings, workspace.images, SilentReporter())
    looked_at.clear()
    Image.new("RGB", (90, 70), "teal").save(workspace.images / "image_003.png")
    Image.new("RGB", (20, 70), "olive").save(workspace.images / "new.png")
    (workspace.images / "image_000.png").unlink()
    result = analyze(workspace, settings, workspace.images, SilentReporter())
    assert sorted(looked_at) == ["image_003.png", "new.png"]
    assert (result.num_new, result.has_changed) == (2, True)
    rows = table(workspace, "images.csv").set_index("image")
    assert "image_000.png" not in rows.index
    assert (rows["width"]["image_003.png"], rows["width"]["new.png"]) == (90, 20)


def test_what_is_known_of_a_deleted_file_is_dropped_unless_its_folder_went_away(
    workspace: Workspace, settings: Settings, looked_at: list[str]
) -> None:
    for folder in ("kept", "share"):
        write_images(workspace.images / folder, 2)
    analyze(workspace, settings, workspace.images, SilentReporter())
    deleted, share = workspace.images / "kept" / "image_001.png", workspace.images / "share"
    data = deleted.read_bytes()
    deleted.unlink()
    share.rename(workspace.root / "away")
    analyze(workspace, settings, workspace.images, SilentReporter())
    with closing(sqlite3.connect(workspace.analyzed_images)) as database:
        assert database.execute("SELECT count(*) FROM analyzed_images").fetchone() == (15,)
    looked_at.clear()
    (workspace.root / "away").rename(share)
    deleted.write_bytes(data)
    analyze(workspace, settings, workspace.images, SilentReporter())
    assert looked_at == ["image_001.png"]


def test_a_stopped_run_goes_on_where_it_was(
    workspace: Workspace, settings: Settings, looked_at: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopping(path: Path) -> object:
        if len(looked_at) == 5:
            raise KeyboardInterrupt
        looked_at.append(path.name)
        return analyze_file(path)

    with monkeypatch.context() as patch:
        patch.setattr(analysis, "analyze_file", stopping)
        with pytest.raises(KeyboardInterrupt):
            analyze(workspace, settings, workspace.images, SilentReporter())
    assert len(looked_at) == 5
    assert analyze(workspace, settings, workspace.images, SilentReporter()).num_new == 7
    assert len(set(looked_at)) == len(looked_at) == 12


def test_two_processes_find_what_one_finds(workspace: Workspace, tmp_path: Path, tiny: Tiny) -> None:
    analyze(workspace, tiny(num_processors=1), workspace.images, SilentReporter())
    other = Workspace(tmp_path / "other")
    analyze(other, tiny(num_processors=2), workspace.images, SilentReporter())
    for name in ("images.csv", "findings.csv", "outliers.csv", "train_test.csv", "measures.png", "mean_and_spread.png"):
        assert (workspace.validation / name).read_bytes() == (other.validation / name).read_bytes()


def plant(folder: Path) -> dict[str, set[str]]:
    """Copies, damaged files and black pictures among others; returns what should be found."""
    write_images(folder, 12, size=(160, 128))
    shutil.copy(folder / "image_000.png", folder / "same.png")
    with Image.open(folder / "image_001.png") as image:
        image.save(folder / "recompressed.jpg", quality=60)
        image.resize((90, 72)).save(folder / "resized.png")
        image.point(lambda level: level // 30).save(folder / "dark.png")
        stream = io.BytesIO()
        image.save(stream, "JPEG")
    (folder / "truncated.jpg").write_bytes(stream.getvalue()[:-200])
    (folder / "empty.png").write_bytes(b"")
    Image.new("RGB", (60, 40), "white").save(folder / "white.png")
    Image.new("L", (60, 40), 120).save(folder / "grey.png")
    with Image.open(folder / "image_004.png") as image:
        image.save(folder / "image_004.png", exif=b"this is no EXIF")
    return {
        "damaged": {"truncated.jpg", "empty.png"},
        "exact copy": {"same.png"},
        "near copy": {"recompressed.jpg", "resized.png"},
        "nearly black": {"dark.png"},
        "nearly white": {"white.png"},
        "nearly uniform": {"grey.png"},
        "unread orientation": {"image_004.png"},
    }


def test_copies_damaged_and_empty_pictures_are_found_and_no_others(tmp_path: Path, settings: Settings) -> None:
    space = Workspace(tmp_path)
    planted = plant(space.images)
    result = analyze(space, settings, space.images, SilentReporter())
    assert findings(space) == planted
    assert result.findings == {kind: len(names) for kind, names in planted.items()}
    assert set(table(space, "rejected.csv")["image"]) == planted["damaged"]
    assert table(space, "rejected.csv")["reason"].str.len().min() > 0
    copies = table(space, "duplicates.csv")
    assert list(copies["likeness"]) == ["first", "exact", "first", "near", "near"]
    groups = copies.groupby("group")["image"].agg(set)
    assert list(groups) == [{"image_000.png", "same.png"}, {"image_001.png", "recompressed.jpg", "resized.png"}]


@pytest.mark.usefixtures("settings")
def test_in_a_folder_of_200_pictures_all_that_was_planted_is_found_and_no_copy_stands_on_two_sides(
    tmp_path: Path, tiny: Tiny
) -> None:
    space = Workspace(tmp_path)
    names = write_images(space.images, 200, size=(120, 90))
    copies = {}
    for number, name in enumerate(names[:10]):
        with Image.open(space.images / name) as image:
            if number < 5:
                copies[name] = f"copy_{number}.png"
                shutil.copy(space.images / name, space.images / copies[name])
            elif number < 8:
                copies[name] = f"copy_{number}.jpg"
                image.save(space.images / copies[name], quality=50)
            else:
                copies[name] = f"copy_{number}.webp"
                image.resize((70, 50)).save(space.images / copies[name])
            if number < 3:
                stream = io.BytesIO()
                image.save(stream, "JPEG")
                (space.images / f"damaged_{number}.jpg").write_bytes(stream.getvalue()[:-100])
                image.point(lambda level: level // 40).save(space.images / f"dark_{number}.png")
    for seed in (1, 2, 3):
        change = {"num_processors": 1, "num_train_samples": 400, "num_test_samples": 100, "split_seed": seed}
        analyze(space, tiny(**change), space.images, SilentReporter())
        rows = table(space, "images.csv").set_index("image")
        assert all(rows["subset"][name] == rows["subset"][copy] for name, copy in copies.items())
        summary = json.loads((space.validation / "summary.json").read_text(encoding="utf-8"))
        assert summary["num_copies_across_split"] == 0
        assert (summary["num_train"], summary["num_validation"], summary["num_test"]) == (153, 17, 43)
    found = findings(space)
    assert {kind: len(images) for kind, images in found.items()} == {
        "damaged": 3, "exact copy": 5, "near copy": 5, "nearly black": 3
    }  # fmt: skip
    assert found["exact copy"] | found["near copy"] == set(names[:10])  # 'copy' comes first among the names


def test_names_with_odd_characters_come_back_from_the_tables(tmp_path: Path, settings: Settings) -> None:
    space = Workspace(tmp_path)
    write_images(space.images, 3)
    name = 'a "quoted", name\nin two lines.png' if os.name != "nt" else "a name, with a comma.png"
    shutil.copy(space.images / "image_000.png", space.images / name)
    analyze(space, settings, space.images, SilentReporter())
    assert name in set(table(space, "images.csv")["image"])
    assert set(table(space, "duplicates.csv")["image"]) == {"image_000.png", name}


def test_the_sides_are_those_that_pretraining_takes(workspace: Workspace, settings: Settings) -> None:
    analyze(workspace, settings, workspace.images, SilentReporter())
    source = find_images(workspace.images)
    split = choose_split(workspace, settings, source, SilentReporter()).split
    rows = table(workspace, "images.csv")
    for side, names in split.sides():
        assert tuple(rows[rows["subset"] == side]["image"]) == names
    distances = table(workspace, "train_test.csv").set_index("measure")
    train, test = (rows[rows["subset"] == side]["std"] for side in ("train", "test"))
    assert distances["train_mean"]["std"] == pytest.approx(train.mean(), rel=1e-4)
    assert distances["test_mean"]["std"] == pytest.approx(test.mean(), rel=1e-4)
    assert 0 <= distances["kolmogorov_smirnov"]["std"] <= 1


def test_pretraining_need_not_look_at_what_was_analyzed(workspace: Workspace, settings: Settings) -> None:
    analyze(workspace, settings, workspace.images, SilentReporter())
    checked = CheckedImages(workspace.checked_images)
    known = [checked.recall(file) for file in workspace.images.iterdir()]
    checked.close()
    assert all(image is not None and len(image.sha256) == 64 and len(image.small) == 32 * 32 for image in known)


def odd_pictures(folder: Path) -> None:
    """Pictures that are decoded in ways of their own: a large JPEG, one that lies on its side, 16 bits, and so on."""
    folder.mkdir()
    random = np.random.default_rng(3)
    coarse = Image.fromarray(random.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    coarse.resize((2301, 1703)).save(folder / "large.jpg")
    exif = Image.Exif()
    exif[0x0112] = 6
    coarse.resize((300, 200)).save(folder / "sideways.jpg", exif=exif)
    coarse.resize((300, 200)).convert("L").save(folder / "grey.png")
    coarse.resize((300, 200)).convert("CMYK").save(folder / "inks.jpg")
    coarse.convert("RGBA").resize((5, 3)).save(folder / "small.png")
    Image.fromarray(random.integers(0, 2**16, (9, 70), dtype=np.uint16)).save(folder / "16_bits.png")
    coarse.resize((1500, 3)).save(folder / "thin.webp")
    (folder / "damaged.png").write_bytes(b"\x89PNG\r\n\x1a\n")


def test_choosing_sees_what_the_analysis_sees(tmp_path: Path) -> None:
    odd_pictures(tmp_path / "odd")
    for path in sorted((tmp_path / "odd").iterdir()):
        looks, analyzed = look_at_file(path), analyze_file(path)
        assert (looks.state, looks.reason) == (analyzed.state, analyzed.reason)
        if analyzed.picture is None:
            assert path.name == "damaged.png"
            continue
        assert looks.sha256 == analyzed.sha256
        assert (looks.perceptual_hash, looks.small) == (analyzed.picture.perceptual_hash, analyzed.picture.small)
        with Image.open(path) as picture:
            upright = ImageOps.exif_transpose(picture)
            if picture.mode in {"RGB", "L"}:
                differing = int.from_bytes(looks.perceptual_hash, "big") ^ int(str(imagehash.phash(upright)), 16)
                assert differing.bit_count() <= 4


@pytest.mark.usefixtures("settings")
def test_a_new_training_run_keeps_near_copies_together_whether_or_not_they_were_analyzed(
    tmp_path: Path, tiny: Tiny
) -> None:
    space, analyzed = Workspace(tmp_path / "one"), Workspace(tmp_path / "two")
    names = write_images(space.images, 40)
    for name in names[:20]:
        with Image.open(space.images / name) as image:
            image.resize((70, 90)).save(space.images / f"{name[:-4]}.jpg")
    settings = tiny(num_processors=1, num_train_samples=48, num_test_samples=12)
    source = find_images(space.images)
    split = choose_split(space, settings, source, SilentReporter()).split
    assert [len(images) for _, images in split.sides()] == [43, 5, 12]
    side_of = {name: side for side, images in split.sides() for name in images}
    assert all(side_of[name] == side_of[f"{name[:-4]}.jpg"] for name in names[:20])
    analyze(analyzed, settings, space.images, SilentReporter())
    assert choose_split(analyzed, settings, source, SilentReporter()).split == split


def test_two_processes_choose_what_one_chooses(
    workspace: Workspace, tmp_path: Path, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    (workspace.images / "empty.png").write_bytes(b"")
    source = find_images(workspace.images)
    one = choose_split(workspace, tiny(num_processors=1), source, SilentReporter())
    monkeypatch.setattr(choosing, "_MANY", 1)
    other = choose_split(Workspace(tmp_path / "other"), tiny(num_processors=2), source, SilentReporter())
    assert one == other
    assert len(one.rejected) == 1


class _Listener(SilentReporter):
    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warning(self, text: str) -> None:
        self.warnings.append(text)


def test_frames_of_one_film_are_divided_all_the_same_and_that_is_said(tmp_path: Path, tiny: Tiny) -> None:
    space = Workspace(tmp_path)
    space.images.mkdir(parents=True)
    start, end = np.random.default_rng(5).integers(0, 256, (2, 6, 8, 3))
    for number in range(40):
        coarse = Image.fromarray(np.uint8(start + (end - start) * number / 39))
        coarse.resize((80, 60), Image.Resampling.BICUBIC).save(space.images / f"{number:03}.png")
    listener = _Listener()
    settings = tiny(num_processors=1, num_train_samples=30, num_test_samples=10)
    split = choose_split(space, settings, find_images(space.images), listener).split
    assert [len(images) for _, images in split.sides()] == [27, 3, 10]
    assert [warning.split(" ", 1)[1] for warning in listener.warnings] == [
        "images belong to groups of near copies that stand on several sides of the split: kept together, they would "
        "leave too few images on one side"
    ]


def test_a_train_image_that_looks_like_a_test_image_is_left_out_and_named(tmp_path: Path, tiny: Tiny) -> None:
    space = Workspace(tmp_path)
    write_images(space.images / "train", 24)
    names = write_images(space.images / "others", 30)[24:]
    (space.images / "test").mkdir()
    for name in names:
        shutil.move(space.images / "others" / name, space.images / "test" / name)
    shutil.rmtree(space.images / "others")
    with Image.open(space.images / "test" / names[0]) as image:
        image.save(space.images / "train" / "near.jpg", quality=70)
    shutil.copy(space.images / "test" / names[1], space.images / "train" / "same.png")
    listener = _Listener()
    settings = tiny(num_processors=1, split="folders", num_train_samples=100, num_test_samples=100)
    split = choose_split(space, settings, find_images(space.images), listener).split
    assert (len(split.train), len(split.validation)) == (22, 2)
    assert listener.warnings == [
        "left out: train/same.png (the same file is in test/)",
        "left out: train/near.jpg (a near copy is in test/)",
    ]


def test_pretraining_does_not_take_what_the_analysis_found_damaged(workspace: Workspace, settings: Settings) -> None:
    (workspace.images / "text.jpg").write_text("no picture", encoding="utf-8")
    analyze(workspace, settings, workspace.images, SilentReporter())
    source = find_images(workspace.images)
    chosen = choose_split(workspace, settings, source, SilentReporter())
    assert "text.jpg" not in chosen.split.names()
    assert len(chosen.rejected) == 1


def test_a_far_out_value_is_named_with_what_is_usual(workspace: Workspace, settings: Settings) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 80, 3), dtype=np.uint8)
    Image.fromarray(noise).save(workspace.images / "noise.png")
    analyze(workspace, settings, workspace.images, SilentReporter())
    outliers = table(workspace, "outliers.csv")
    noisy = outliers[outliers["measure"] == "noise_std"]
    assert list(noisy["image"]) == ["noise.png"]
    assert noisy["value"].item() > noisy["usual_high"].item()


@pytest.mark.parametrize("count", [1, 2])
def test_one_or_two_images_are_analyzed_too(tmp_path: Path, settings: Settings, count: int) -> None:
    space = Workspace(tmp_path)
    write_images(space.images, count)
    result = analyze(space, settings, space.images, SilentReporter())
    assert result.num_good == count
    assert json.loads((space.validation / "summary.json").read_text(encoding="utf-8"))["num_good"] == count


def test_no_images_or_none_that_can_be_read_are_said_to_be_so(tmp_path: Path, settings: Settings) -> None:
    space = Workspace(tmp_path)
    space.images.mkdir(parents=True)
    with pytest.raises(SourceError, match="there are no images in"):
        analyze(space, settings, space.images, SilentReporter())
    (space.images / "text.jpg").write_text("no picture", encoding="utf-8")
    with pytest.raises(SourceError, match=r"none of the 1 images in .* can be read: not an image"):
        analyze(space, settings, space.images, SilentReporter())


def test_a_damaged_memory_is_made_anew(workspace: Workspace, settings: Settings) -> None:
    analyze(workspace, settings, workspace.images, SilentReporter())
    workspace.analyzed_images.write_bytes(b"not a database" * 1000)
    for expected in (12, 12, 0):  # found damaged and removed; made anew; known
        assert analyze(workspace, settings, workspace.images, SilentReporter()).num_new == expected
