"""Inputs that nobody thought of, made by the thousand: settings, names and lists."""

import csv
import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fext.data.images import Preprocessing, preprocess
from fext.data.source import find_images
from fext.data.split import sampling_order, split_images
from fext.errors import ImageRejected, SettingsError, SourceError, TooFewImagesError
from fext.settings import Settings, load_settings, settings_from_json
from fext.store import files
from fext.store.tables import csv_row

A_FOLDER_IS_ENOUGH = settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0/"), min_size=1, max_size=40)
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
SETTINGS = st.sampled_from(sorted(Settings.model_fields))


@A_FOLDER_IS_ENOUGH
@given(name=SETTINGS, value=JSON_VALUES)
def test_any_value_of_any_setting_is_taken_as_it_stands_or_refused_by_its_name(name: str, value: object) -> None:
    text = json.dumps({name: value})
    try:
        taken = settings_from_json(text, "test")
    except SettingsError as error:
        assert name in str(error)
        assert len(str(error).splitlines()) == 1
        return
    assert settings_from_json(taken.to_json(), "test") == taken
    kept = getattr(taken, name)
    if name != "training_device":  # its case does not matter
        assert kept == (tuple(value) if isinstance(value, list) else value)


@A_FOLDER_IS_ENOUGH
@given(text=st.text(max_size=60))
def test_any_text_behind_set_is_taken_or_refused_in_one_line(tmp_path: Path, text: str) -> None:
    file = tmp_path / "configurations.py"
    file.write_text("epochs = 3\n", encoding="utf-8")
    try:
        assert load_settings(file, [text]).model_dump()
    except SettingsError as error:
        assert len(str(error).splitlines()) == 1


@A_FOLDER_IS_ENOUGH
@given(source=st.binary(max_size=80) | st.text(max_size=80).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_any_configurations_file_is_read_or_refused_by_its_name(tmp_path: Path, source: bytes) -> None:
    file = tmp_path / "configurations.py"
    file.write_bytes(source)
    try:
        load_settings(file)
    except SettingsError as error:
        assert "configurations.py" in str(error)


@given(names=st.lists(NAMES, min_size=1, max_size=8, unique=True))
def test_any_names_come_back_from_the_csv_as_they_went_in(names: list[str]) -> None:
    features = np.array([0.5, -1e-7], dtype=np.float32)
    text = "image,feature_0,feature_1\n" + "".join(csv_row(name, features).decode() for name in names)
    rows = list(csv.reader(io.StringIO(text, newline="")))
    assert rows[1:] == [[name, "0.5", "-1e-7"] for name in names]
    frame = pd.read_csv(io.StringIO(text, newline=""), keep_default_na=False, dtype={"image": str})
    assert list(frame["image"]) == names


@A_FOLDER_IS_ENOUGH
@given(cells=st.lists(st.tuples(st.text(max_size=20), st.text(max_size=20)), max_size=5))
def test_any_cells_are_read_back_as_they_were_written(tmp_path: Path, cells: list[tuple[str, str]]) -> None:
    path = tmp_path / "table.csv"
    files.write_csv(path, ("one", "two"), cells)
    assert [(row["one"], row["two"]) for row in files.read_csv(path)] == cells


@given(data=st.binary(max_size=300))
def test_any_bytes_are_an_image_or_rejected_with_a_reason(data: bytes) -> None:
    try:
        array = preprocess(data, Preprocessing(32, 32, 3, "pad"))
    except ImageRejected as error:
        assert str(error)
    else:
        assert np.isfinite(array).all()


@given(
    contents=st.lists(st.integers(0, 6), max_size=30),
    num_train=st.integers(1, 40),
    num_test=st.integers(1, 40),
    seed=st.integers(0, 100),
)
def test_any_split_has_two_sides_without_a_content_in_common(
    contents: list[int], num_train: int, num_test: int, seed: int
) -> None:
    checksums = {f"{position}.png": str(content) for position, content in enumerate(contents)}
    images = [(name, checksums[name]) for name in sampling_order(list(checksums), seed)]
    try:
        names, sha256s = zip(*images, strict=True) if images else ((), ())
        split = split_images(names, np.array(sha256s, "U"), num_train, num_test)
    except TooFewImagesError:
        assert len({sha256 for _, sha256 in images[: num_train + num_test]}) < 2
        return
    assert len(split.train) + len(split.test) == min(len(images), num_train + num_test)
    assert split.train
    assert split.test
    assert not {checksums[name] for name in split.train} & {checksums[name] for name in split.test}


@A_FOLDER_IS_ENOUGH
@given(text=st.binary(max_size=200), extension=st.sampled_from([".csv", ".txt"]))
def test_any_list_of_paths_is_read_or_refused(tmp_path: Path, text: bytes, extension: str) -> None:
    file = tmp_path / f"list{extension}"
    file.write_bytes(text)
    try:
        names = find_images(file).names
    except SourceError as error:
        assert file.name in str(error)
    else:
        assert list(names) == sorted(set(names), key=str.encode)
