"""Classifiers: labels and sides, what is learned, what is written, and the images that are told apart with it."""

import csv
import importlib.util
import itertools
import json
import shutil
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fext.compute import row_classifiers
from fext.compute.device import Computation
from fext.compute.head_training import EncoderAndHead, set_whitenings
from fext.compute.row_classifiers import (
    LinearProbe,
    choose_probe,
    class_weights,
    nearest_labels,
    row_classifier_from,
)
from fext.compute.variation import vary
from fext.data.labels import divide, divide_by_folder, label_images, read_labels
from fext.errors import (
    CheckpointError,
    ClassifierError,
    ExtractionError,
    FextError,
    SourceError,
    TooFewImagesError,
    UsageError,
)
from fext.jobs.classification import ClassifyResult
from fext.jobs.classify import Method, classify
from fext.jobs.extract import extract
from fext.jobs.predict import PredictResult, predict
from fext.jobs.pretrain import pretrain
from fext.jobs.recipe import cifar10
from fext.model.autoencoder import build_autoencoder
from fext.model.classification_scores import classification_scores
from fext.model.classifier import ClassifierHead, encoder_maps, map_shapes
from fext.model.linear_path import LinearPathEncoder
from fext.model.plans import Plan, Stage, make_plan
from fext.model.verdict import NO_REFERENCES
from fext.pictures.classification_report import verdicts
from fext.pictures.figures import confusion_figure, head_history_figure
from fext.reporting import Progress, SilentReporter, StopRequested
from fext.settings import Settings
from fext.store import classifiers, files
from fext.store.checkpoints import load_split
from fext.store.tensors import tensors_from_bytes, tensors_to_bytes
from fext.store.workspace import Workspace

Tiny = Callable[..., Settings]

COLOURS = {"green": (30, 200, 40), "red": (210, 40, 30), "violet": (120, 40, 200)}
NUM_EACH = 8


def write_classes(folder: Path, classes: Sequence[str] = tuple(COLOURS), count: int = NUM_EACH, seed: int = 1) -> None:
    """Noisy pictures of one colour for each class, in a folder for each."""
    random = np.random.default_rng(seed)
    for label in classes:
        (folder / label).mkdir(parents=True, exist_ok=True)
        colour = COLOURS.get(label, (100, 100, 100))
        for number in range(count):
            pixels = random.normal(colour, 20, size=(32, 32, 3)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / label / f"{number:02}.png")


@pytest.fixture(scope="module")
def settings(tiny: Tiny) -> Tiny:
    """Settings for small heads on `cifar`, with changes."""

    def make(**changes: object) -> Settings:
        values: dict[str, object] = {
            "architecture": "cifar",
            "picture_shape": (32, 32, 3),
            "num_train_samples": 16,
            "num_test_samples": 8,
            "batch_size": 8,
            "num_processors": 1,
            "head_width": 4,
            "head_epochs": 2,
            "head_batch_size": 8,
        }
        return tiny(**(values | changes))

    return make


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, settings: Tiny) -> Path:
    """A workspace with images of three classes, a checkpoint and an extraction of them."""
    space = Workspace(tmp_path_factory.mktemp("trained"))
    write_classes(space.images)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fext.jobs.pretrain._draw_pictures", lambda run, state: None)
        pretrain(space, settings(), space.images, "model", SilentReporter())
    extract(space, settings(), space.checkpoints / "model", space.images, "table", SilentReporter())
    return space.root


@pytest.fixture
def space(trained: Path, tmp_path: Path) -> Workspace:
    """A copy for a test to change; its extraction is of the images there."""
    root = Path(shutil.copytree(trained, tmp_path / "home", ignore=shutil.ignore_patterns("classifiers")))
    file = root / "inference" / "table" / "manifest.json"
    before, now = (json.dumps(str(path))[1:-1] for path in (trained, root))
    file.write_text(file.read_text(encoding="utf-8").replace(before, now), encoding="utf-8")
    return Workspace(root)


@pytest.fixture(autouse=True)
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are told of, not drawn: they would take most of the time."""
    monkeypatch.setattr(files, "write_figure", lambda path, figure: files.write_bytes(path, b""))


def do(
    space: Workspace, settings: Settings, method: Method = "probe", name: str | None = None, **options: Any
) -> ClassifyResult:
    labels = options.pop("labels", None)
    reporter = options.pop("reporter", SilentReporter())
    return classify(space, settings, space.inference / "table", labels, method, name, reporter, **options)


def tell(
    space: Workspace, settings: Settings, classifier: str, images: Path, output: Path | None = None
) -> PredictResult:
    return predict(space, settings, space.classifiers / classifier, images, output, SilentReporter())


def write_labels(file: Path, rows: Sequence[tuple[str, str]], header: tuple[str, str] = ("image", "label")) -> Path:
    with file.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([header, *rows])
    return file


# ---------------------------------------------------------------- labels and sides

NAMES = [f"{label}/{number}.png" for label in ("cat", "dog") for number in range(10)]
DIFFERENT = np.arange(20)


def test_folders_are_labels_and_images_at_the_top_have_none() -> None:
    labelled = label_images(["train/dog/1.png", "test/cat/1.png", "dog/2.png", "top.png"])
    assert labelled.classes == ("cat", "dog")
    assert labelled.codes.tolist() == [1, 0, 1, -1]
    assert (labelled.num_without, labelled.num_elsewhere) == (1, 0)


def test_labels_of_a_file_that_are_of_other_images_are_counted(tmp_path: Path) -> None:
    rows = [("a.png", "x"), ("b.png", "y"), ("c.png", "y"), ("gone.png", "y"), ("d.png", "")]
    labelled = label_images(["a.png", "b.png", "c.png", "d.png"], read_labels(write_labels(tmp_path / "l.csv", rows)))
    assert labelled.codes.tolist() == [0, 1, 1, -1]
    assert (labelled.num_without, labelled.num_elsewhere, labelled.elsewhere) == (1, 1, ("gone.png",))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a/1.png", "a/2.png"], "two classes or more, and here all 2 are a"),
        (["1.png", "2.png"], "here none has a label"),
        (["a/1.png", "b/1.png"], "each of the 2 classes has one image"),
    ],
)
def test_images_that_cannot_be_told_apart_are_refused(names: list[str], message: str) -> None:
    with pytest.raises(TooFewImagesError, match=message):
        label_images(names)


def test_what_is_said_of_a_table_of_labels_is_what_is_wrong_with_it(tmp_path: Path) -> None:
    with pytest.raises(TooFewImagesError, match="all 2 are x: give others another label"):
        label_images(["1.png", "2.png"], {"1.png": "x", "2.png": "x"})
    both_sides = (
        r"none has a label: name images in the table as the extraction does \(the table has 'other/1\.png', the"
    )
    with pytest.raises(TooFewImagesError, match=both_sides + r" extraction '1\.png' and '2\.png'\)"):
        label_images(["1.png", "2.png", "3.png"], {"other/1.png": "x"})
    missing, binary = tmp_path / "missing.csv", tmp_path / "binary.csv"
    binary.write_bytes(bytes(range(256)))
    with pytest.raises(SourceError, match=r"table of labels \(No such file or directory\): name a CSV"):
        read_labels(missing)
    with pytest.raises(SourceError, match="save it as text in UTF-8"):
        read_labels(binary)


@pytest.mark.parametrize("header", ["image|label", "Image|Label", " IMAGE | label ", '"image"|"Label"|note'])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_table_of_labels_is_read_as_spreadsheets_of_all_languages_write_it(
    header: str, separator: str, encoding: str, tmp_path: Path
) -> None:
    text = f'{header}\n"a, b; c.png"|katze \nmüller.png|hund\n\nd.png|\n'.replace("|", separator)
    (tmp_path / "l.csv").write_text(text, encoding)
    assert read_labels(tmp_path / "l.csv") == {"a, b; c.png": "katze", "müller.png": "hund"}


@pytest.mark.parametrize("spelling", ["{}", '"{}"', " {} ", ".\\{}", "C-{}"])
def test_labels_find_images_by_other_spellings_of_their_names(spelling: str) -> None:
    names = [f"sub/{number}.png" for number in range(4)]
    labels = {spelling.format(name).replace("/", "\\"): "xy"[place % 2] for place, name in enumerate(names)}
    if spelling == "C-{}":  # another name, and no other spelling of it
        with pytest.raises(TooFewImagesError, match="none has a label"):
            label_images(names, labels)
    else:
        names = [spelling.format(name) for name in names] if spelling.startswith(".") else names
        assert label_images([name.replace("\\", "/") for name in names], labels).codes.tolist() == [0, 1, 0, 1]


@pytest.mark.parametrize(("in_table", "on_disk"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_labels_find_images_whose_letters_are_composed_in_another_way(in_table: str, on_disk: str) -> None:
    names = ["héron_00.jpg", "Müller_01.jpg", "forêt_02.jpg", "plain_03.jpg"]
    labels = {unicodedata.normalize(in_table, name): "ab"[place % 2] for place, name in enumerate(names)}
    labelled = label_images([unicodedata.normalize(on_disk, name) for name in names], labels)
    assert (labelled.codes.tolist(), labelled.num_elsewhere) == ([0, 1, 0, 1], 0)


def test_a_label_is_for_the_name_as_it_stands_before_any_other_and_for_none_where_several_could_be_meant() -> None:
    composed, apart, other = "\u1e69.png", "s\u0323\u0307.png", "s\u0307\u0323.png"  # one letter in three ways
    rest = {"1.png": "x", "2.png": "y", "3.png": "x"}
    labelled = label_images([composed, apart, *rest], {composed: "y", **rest})
    assert (labelled.codes.tolist(), labelled.num_elsewhere) == ([1, -1, 0, 1, 0], 0)
    labelled = label_images([apart, other, *rest], {composed: "y", **rest})
    assert (labelled.codes.tolist(), labelled.elsewhere) == ([-1, -1, 0, 1, 0], (composed,))
    with pytest.raises(SourceError, match=r"gives 1\.png two labels, x and y"):
        label_images(["1.png", "2.png"], {"'1.png'": "x", '"1.png"': "y"})


def test_a_table_without_the_columns_or_with_two_labels_of_an_image_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        SourceError, match=r"has no columns image and label: its first line has to name them, and is 'file, class'"
    ):
        read_labels(write_labels(tmp_path / "l.csv", [("a", "b")], ("file", "class")))
    with pytest.raises(SourceError, match=r"gives a\.png two labels, x and y"):
        read_labels(write_labels(tmp_path / "l.csv", [("a.png", "x"), ("a.png", "y")]))
    with pytest.raises(SourceError, match="cannot be read"):
        read_labels(tmp_path / "nothing.csv")


def test_each_class_has_its_share_on_each_side_and_each_image_one_side() -> None:
    division = divide(label_images(NAMES), DIFFERENT, 0.2, 0.25, 42)
    assert sorted(np.concatenate(list(division)).tolist()) == list(range(20))
    for side, each in zip(division, (6, 2, 2), strict=True):
        assert (side < 10).sum() == (side >= 10).sum() == each
    again, other = (divide(label_images(NAMES), DIFFERENT, 0.2, 0.25, seed) for seed in (42, 7))
    assert all(np.array_equal(*pair) for pair in zip(division, again, strict=True))
    assert not np.array_equal(division.test, other.test)


def test_images_of_equal_content_stay_on_one_side() -> None:
    contents = np.arange(20) // 2
    for side in divide(label_images(NAMES), contents, 0.4, 0.2, 3):
        places = set(side.tolist())
        assert all(place ^ 1 in places for place in places)
    with pytest.raises(TooFewImagesError, match="copies of one another"):
        divide(label_images(NAMES), np.arange(20) // 10, 0.2, 0.2, 3)


def test_a_class_of_one_image_is_for_training_and_of_two_one_is_for_testing() -> None:
    labelled = label_images(["a/1", "b/1", "b/2", "c/1", "c/2", "c/3"])
    train, validation, test = (set(side.tolist()) for side in divide(labelled, np.arange(6), 0.2, 0.15, 1))
    assert 0 in train
    assert [len({1, 2} & side) for side in (train, validation, test)] == [1, 0, 1]
    assert [len({3, 4, 5} & side) for side in (train, validation, test)] == [1, 1, 1]


def test_folders_train_and_test_are_used_as_they_are_and_copies_of_test_images_left_out() -> None:
    names = [f"{side}/{label}/{number}" for side in ("test", "train") for label in "ab" for number in range(4)]
    contents = np.arange(16)
    contents[8] = contents[0]
    division = divide_by_folder(label_images(names), names, contents, 0.3, 1)
    assert division.test.tolist() == list(range(8))
    assert sorted([*division.train.tolist(), *division.validation.tolist()]) == list(range(9, 16))
    one_class = [name.replace("train/b", "train/a") for name in names]
    with pytest.raises(TooFewImagesError, match="all of one class"):
        divide_by_folder(label_images(one_class), one_class, np.arange(16), 0.3, 1)
    with pytest.raises(SourceError, match="both folders, train and test"):
        divide_by_folder(label_images(NAMES), NAMES, DIFFERENT, 0.3, 1)
    three = [
        f"{side}/{label}/{number}" for side in ("test", "train", "validation") for label in "ab" for number in (0, 1)
    ]
    labelled = label_images(three)
    assert labelled.classes == ("a", "b")
    contents = np.array([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 3, 4])
    division = divide_by_folder(labelled, three, contents, 0.3, 1)
    assert [side.tolist() for side in division] == [[5, 6, 7], [8, 9, 11], [0, 1, 2, 3]]


# ---------------------------------------------------------------- rows


def clouds(count: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Rows of three classes that overlap, their columns of different scale; with a column that does not vary."""
    random = np.random.default_rng(5)
    codes = (np.arange(count) % 3).astype(np.int32)
    rows = random.normal(size=(count, 6)) + np.eye(6)[codes] * 2
    return np.hstack([rows * [1, 10, 100, 1, 1, 0.01], np.ones((count, 1))]).astype(np.float32), codes


def test_the_linear_probe_tells_what_logistic_regression_of_scikit_learn_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    monkeypatch.setattr(row_classifiers, "_BLOCK_BYTES", 400)  # a few rows at a time
    rows, codes = clouds(150)
    places = np.arange(150)
    nothing = places[:0], codes[:0]
    probe, strength = choose_probe(
        rows, (places, codes), nothing, class_weights(codes, 3, balanced=False), lambda: None
    )
    standard = StandardScaler().fit_transform(rows.astype(np.float64))
    expected = LogisticRegression(C=1 / (strength * 150), max_iter=1000).fit(standard, codes).predict_proba(standard)
    assert np.allclose(probe.probabilities(rows), expected, atol=2e-3)
    assert np.mean(probe.probabilities(rows).argmax(axis=1) == codes) > 0.7


def test_the_regularization_is_the_one_of_least_cross_entropy_on_validation_images_and_these_are_learned_from() -> None:
    rows, codes = clouds(120)
    sides = np.arange(60), np.arange(60, 120)
    train, validation = ((side, codes[side]) for side in sides)
    weights = class_weights(codes, 3, balanced=False)
    chosen, strength = choose_probe(rows, train, validation, weights, lambda: None)
    with pytest.MonkeyPatch.context() as patch:
        found = {}
        for one, power in itertools.product(row_classifiers._STRENGTHS, row_classifiers._POWERS):
            patch.setattr(row_classifiers, "_WITHOUT_CHOICE", one)
            patch.setattr(row_classifiers, "_STANDARDIZED", power)
            nothing = train[0][:0], train[1][:0]
            shares = choose_probe(rows, train, nothing, weights, lambda: None)[0].probabilities(rows[validation[0]])
            loss = -float(np.log(shares[np.arange(60), validation[1]]).mean())
            of_all = (np.arange(120), codes)
            found[loss] = one, choose_probe(rows, of_all, nothing, weights, lambda: None)[0]
    best, refitted = found[min(found)]
    assert strength == best
    assert np.allclose(chosen.probabilities(rows), refitted.probabilities(rows), atol=1e-4)


def test_the_nearest_labels_are_those_of_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    from sklearn.neighbors import KNeighborsClassifier

    monkeypatch.setattr(row_classifiers, "_BLOCK_BYTES", 200)
    rows, codes = clouds(90)
    places = np.arange(60)
    nearest = nearest_labels(rows, places, codes[places], 3, 5)
    expected = KNeighborsClassifier(5, metric="cosine", algorithm="brute").fit(rows[:60], codes[:60])
    assert np.allclose(nearest.probabilities(rows[60:]), expected.predict_proba(rows[60:]), atol=1e-3)


def test_rare_classes_count_more_where_classes_are_balanced() -> None:
    codes = np.array([0] * 30 + [1] * 10, np.int32)
    assert class_weights(codes, 3, balanced=True).tolist() == pytest.approx([2 / 3, 2, 0])
    assert class_weights(codes, 3, balanced=False).tolist() == [1, 1, 0]


def test_scores_are_those_that_can_be_counted_by_hand() -> None:
    true, told = np.array([0, 0, 0, 1], np.int32), np.array([0, 0, 1, 1], np.int32)
    scores = classification_scores(true, told, ["a", "b", "c"])
    assert (scores.accuracy.mean, scores.commonest) == (0.75, 0.75)
    assert scores.balanced_accuracy == pytest.approx((2 / 3 + 1) / 2)
    assert [one.precision for one in scores.classes] == [1, 0.5, 0]
    assert scores.confusion.tolist() == [[2, 1, 0], [0, 1, 0], [0, 0, 0]]
    shown = [text.get_text() for text in confusion_figure(scores.confusion, ["a", "b", "c"]).axes[0].texts]
    assert shown == ["2", "1", "0", "0", "1", "0", "0", "0", "0"]
    assert scores.accuracy.low == pytest.approx(0.301, abs=1e-3)  # Wilson's interval of 3 in 4
    assert scores.accuracy.high == pytest.approx(0.954, abs=1e-3)
    assert "Best told is a (F1 0.800), worst b (F1 0.667)." in verdicts(scores)


def test_classes_told_equally_well_are_neither_best_nor_worst() -> None:
    true, told = np.array([0, 0, 1, 1], np.int32), np.array([0, 1, 1, 0], np.int32)
    assert not any("Best" in said for said in verdicts(classification_scores(true, told, ["a", "b"])))


# ---------------------------------------------------------------- heads


@pytest.mark.parametrize(
    ("plan", "expected"),
    [
        (make_plan("cifar", (32, 32, 3)), [(32, 16, 16), (64, 16, 16), (128, 8, 8)]),
        (make_plan("redux", (64, 64, 3)), [(16, 16, 16), (32, 16, 16), (64, 8, 8), (128, 4, 4), (512, 2, 2)]),
        (make_plan("redux", (64, 32, 3), linear_shortcut=True), [(512, 2, 1)]),
    ],
)
def test_a_head_sees_the_last_map_of_each_size(plan: Any, expected: list[tuple[int, int, int]]) -> None:
    encoder = build_autoencoder(plan, 1).encoder.eval()
    shapes = map_shapes(encoder, plan.picture_shape, "all")
    assert shapes == expected
    assert map_shapes(encoder, plan.picture_shape, "last") == expected[-1:]
    images = torch.rand(2, 3, *plan.picture_shape[:2])
    latent = encoder_maps(encoder, images, "all")[-1]
    assert torch.equal(latent, encoder(images))
    assert ClassifierHead(shapes, 5, 4)(encoder_maps(encoder, images, "all")).shape == (2, 5)


def test_a_head_begins_with_channels_that_vary_alike_and_independently() -> None:
    encoder = torch.nn.Sequential(torch.nn.Conv2d(3, 6, 3, padding=1), torch.nn.MaxPool2d(2)).eval()
    encoder[0].weight.data[0] *= 100
    model = EncoderAndHead(encoder, ClassifierHead(map_shapes(encoder, (16, 16, 3), "all"), 2, 4), "all")
    images = torch.rand(40, 3, 16, 16)
    set_whitenings(model, [images[:30], images[30:]], Computation(torch.device("cpu"), "float32", 1))
    for layer, maps in zip(model.head.whitenings, encoder_maps(encoder, images, "all"), strict=True):
        channels = layer(maps).permute(1, 0, 2, 3).flatten(1)
        covariance = torch.cov(channels)
        assert torch.allclose(channels.mean(dim=1), torch.zeros(6), atol=1e-3)
        assert torch.allclose(covariance, torch.diag(covariance.diagonal()), atol=1e-3)
        assert covariance.diagonal().max().item() == pytest.approx(1, abs=0.01)
        assert covariance.diagonal().min() > 0.5


def test_variations_stay_pictures_and_follow_from_the_seed() -> None:
    images = torch.rand(6, 3, 32, 24)
    one, same, other = (vary(images, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert one.shape == images.shape
    assert 0 <= one.min() <= one.max() <= 1
    plain = torch.full((4, 3, 32, 32), 0.25)
    assert torch.allclose(vary(plain, torch.Generator().manual_seed(1)), plain)


def test_half_of_the_images_stay_as_sharp_as_they_are() -> None:
    stripes = torch.arange(32).remainder(2).float().expand(400, 1, 32, 32)
    varied = vary(stripes, torch.Generator().manual_seed(1))
    is_sharp = ((varied - varied.round()).abs() < 1e-3).flatten(1).all(dim=1)
    assert 0.4 < is_sharp.float().mean() < 0.6


# ---------------------------------------------------------------- from images to a classifier, and to labels


@pytest.mark.parametrize("method", ["probe", "knn", "head"])
def test_colours_are_learned_and_told_in_new_images(
    space: Workspace, settings: Tiny, tmp_path: Path, method: Method
) -> None:
    chosen = settings(head_epochs=8, head_batch_size=4, head_augmentation=False, head_learning_rate=0.01)
    result = do(space, chosen, method, "colours")
    assert result.scores.accuracy.mean == 1
    assert (result.num_train, result.num_validation, result.num_test) == (15, 3, 6)
    folder = space.classifiers / "colours"
    written = {path.name for path in folder.iterdir()}
    common = {
        "classifier.json",
        "classifier.safetensors",
        "split.csv",
        "predictions.csv",
        "report.html",
        "confusion.png",
    }
    assert written == common | ({"history.json", "history.png"} if method == "head" else set())
    table = files.read_csv(folder / "predictions.csv")
    assert len(table) == 6
    assert all(row["label"] == row["predicted"] == row["image"].split("/")[0] for row in table)
    description = classifiers.read_description(folder)
    assert description["checkpoint"]["name"] == "model"
    assert description["scores"]["accuracy"] == 1

    write_classes(tmp_path / "new", count=2, seed=9)
    (tmp_path / "new" / "broken.png").write_bytes(b"")
    told = tell(space, chosen, "colours", tmp_path / "new", tmp_path / "told.csv")
    assert (told.num_found, told.num_rejected) == (7, 1)
    rows = files.read_csv(tmp_path / "told.csv")
    assert [row["label"] for row in rows] == [row["image"].split("/")[0] for row in rows]
    assert list(rows[0]) == ["image", "label", "probability", *(f"probability_{name}" for name in COLOURS)]
    assert all(sum(float(row[f"probability_{name}"]) for name in COLOURS) == pytest.approx(1, abs=1e-5) for row in rows)
    assert files.read_csv(told.rejected_file) == [{"image": "broken.png", "reason": "the file is empty"}]


@pytest.mark.parametrize("method", ["probe", "knn", "head"])
def test_the_same_image_is_told_as_it_was_when_the_classifier_was_tested(
    space: Workspace, settings: Tiny, tmp_path: Path, method: Method
) -> None:
    do(space, settings(), method, "one")
    tell(space, settings(), "one", space.images, tmp_path / "told.csv")
    told = {row["image"]: row for row in files.read_csv(tmp_path / "told.csv")}
    for row in files.read_csv(space.classifiers / "one" / "predictions.csv"):
        assert told[row["image"]]["label"] == row["predicted"]
        assert float(told[row["image"]]["probability"]) == pytest.approx(float(row["probability"]), abs=2e-4)


def test_an_image_and_its_mirror_image_are_told_alike_where_training_mirrored_them(
    space: Workspace, settings: Tiny, tmp_path: Path
) -> None:
    """Left is green and right red, or the other way round."""
    write_classes(tmp_path, count=1)
    halves = np.asarray(Image.open(tmp_path / "green" / "00.png")).copy()
    halves[:, 16:] = np.asarray(Image.open(tmp_path / "red" / "00.png"))[:, 16:]
    (tmp_path / "halves").mkdir()
    for name, pixels in (("one.png", halves), ("other.png", halves[:, ::-1])):
        Image.fromarray(pixels).save(tmp_path / "halves" / name)
    for mirrored in (True, False):
        name = f"mirrored_{mirrored}"
        do(space, settings(head_augmentation=mirrored), "head", name)
        one, other = (dict(row) for row in files.read_csv(tell(space, settings(), name, tmp_path / "halves").file))
        assert (one["probability"] == other["probability"]) == mirrored


def test_other_encoders_stand_beside_the_model_on_the_same_images(space: Workspace, settings: Tiny) -> None:
    for method in ("probe", "knn"):
        result = do(space, settings(), method, references=True)  # type: ignore[arg-type]
        assert set(result.references) == {"untrained", "linear_map", "pixels"}
        assert result.references["pixels"].mean == 1
        page = (result.folder / "report.html").read_text(encoding="utf-8")
        assert "Beside other encoders" in page
        assert set(result.verdict.model_minus) == set(result.references)
        for name, reference in result.references.items():
            gain = result.verdict.model_minus[name].mean
            assert gain == pytest.approx(result.scores.accuracy.mean - reference.mean)
        assert all(sentence in page for sentence in result.verdict.sentences)
    with pytest.raises(UsageError, match="--references goes with"):
        do(space, settings(), "head", references=True)


def test_predict_says_how_good_the_classifier_was_and_whether_pixels_were_as_good(
    space: Workspace, settings: Tiny
) -> None:
    compared = do(space, settings(), "probe", "one", references=True)
    first, *others = tell(space, settings(), "one", space.images).known_of_it
    assert first.startswith("one told 100.0% (")
    assert first.endswith("of its 6 test images rightly.")
    assert others == list(compared.verdict.sentences)
    path = space.classifiers / "one" / "classifier.json"
    old = json.loads(path.read_text(encoding="utf-8"))
    del old["verdict"]
    path.write_text(json.dumps(old), encoding="utf-8")
    told = tell(space, settings(), "one", space.images)
    assert told.known_of_it[1].startswith("With pixels in place of the model it was 100.0%")
    assert summary_of(told)["known_of_it"] == list(told.known_of_it)
    del old["references"], old["scores"]
    path.write_text(json.dumps(old), encoding="utf-8")
    assert tell(space, settings(), "one", space.images).known_of_it[0].endswith("is not known.")


@pytest.mark.parametrize("method", ["knn", "head"])
def test_without_references_a_classifier_says_how_to_ask_for_them(
    space: Workspace, settings: Tiny, method: Method
) -> None:
    result = do(space, settings(head_epochs=1), method, "one")
    assert result.verdict.sentences[0].startswith(NO_REFERENCES)
    assert "They go with the methods probe and knn" in result.verdict.sentences[0] or method == "knn"
    assert "Ask with --references" in (result.folder / "report.html").read_text(encoding="utf-8")
    assert "Whether pixels would do as well" in tell(space, settings(), "one", space.images).known_of_it[1]


def test_a_name_is_made_up_where_none_is_given_and_one_that_is_taken_refused(space: Workspace, settings: Tiny) -> None:
    names = [do(space, settings(), "knn").name for _ in range(2)]
    assert names == ["table_knn", "table_knn_2"]
    with pytest.raises(ClassifierError, match="already a classifier table_knn"):
        do(space, settings(), "knn", "table_knn")


def test_labels_of_a_file_take_the_place_of_folders(space: Workspace, settings: Tiny, tmp_path: Path) -> None:
    rows = [(f"{label}/{n:02}.png", "warm" if label == "red" else "cold") for label in COLOURS for n in range(NUM_EACH)]
    labels = write_labels(tmp_path / "l.csv", [*rows[:-2], ("elsewhere.png", "warm")])
    result = do(space, settings(), labels=labels)
    assert [one.name for one in result.scores.classes] == ["cold", "warm"]
    assert "2 images have no label: they are left out." in result.notes
    assert any("1 labels of" in note for note in result.notes)
    few = write_labels(tmp_path / "few.csv", [("red/00.png", "x"), ("red/01.png", "x")])
    with pytest.raises(TooFewImagesError, match="all 2 are x"):
        do(space, settings(), labels=few)


def test_the_page_shows_mistakes_with_their_pictures_and_names_as_text(
    space: Workspace, settings: Tiny, tmp_path: Path
) -> None:
    rows = [(f"{label}/{n:02}.png", "<b>odd" if n % 2 else "even") for label in COLOURS for n in range(NUM_EACH)]
    result = do(space, settings(), labels=write_labels(tmp_path / "l.csv", rows))
    assert result.scores.accuracy.mean < 1
    page = (result.folder / "report.html").read_text(encoding="utf-8")
    assert "Most confident mistakes" in page
    assert page.count("data:image/webp") == round((1 - result.scores.accuracy.mean) * result.num_test)
    assert "<b>odd" not in page.split("<main>")[1]


# ---------------------------------------------------------------- heads that are stopped


class StopsAfter(SilentReporter):
    """A user who presses Ctrl-C after so many steps of training."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.messages: list[str] = []

    def message(self, text: str) -> None:
        self.messages.append(text)

    @contextmanager
    def progress(self, title: str, total: int) -> Iterator[Progress]:
        outer = self

        class _Counting:
            def advance(self, count: int = 1, note: str = "") -> None:
                outer.steps -= title == "training"
                if outer.steps < 0:
                    raise StopRequested

        yield _Counting()


@pytest.mark.parametrize("steps", [4, 9])
def test_a_head_that_was_stopped_goes_on_to_the_same_end(space: Workspace, settings: Tiny, steps: int) -> None:
    """An epoch has two steps of training and one of validation; the third and fourth are with the encoder."""
    chosen = settings(finetune_epochs=2)
    whole = do(space, chosen, "head", "whole")
    reporter = StopsAfter(steps)
    with pytest.raises(StopRequested):
        do(space, chosen, "head", "stopped", reporter=reporter)
    assert any("the same command goes on" in text for text in reporter.messages)
    assert not (space.classifiers / "stopped" / "classifier.json").exists()
    finished = do(space, chosen, "head", "stopped")
    one, two = (
        [{key: value for key, value in row.items() if key != "seconds"} for row in files.read_json(path)]
        for path in (whole.folder / "history.json", finished.folder / "history.json")
    )
    assert one == two
    weights = [(result.folder / "classifier.safetensors").read_bytes() for result in (whole, finished)]
    assert weights[0] == weights[1]
    assert not (space.classifiers / "stopped" / "unfinished.safetensors").exists()


def test_what_was_begun_with_other_settings_is_not_gone_on_with(space: Workspace, settings: Tiny) -> None:
    with pytest.raises(StopRequested):
        do(space, settings(), "head", reporter=StopsAfter(4))
    assert do(space, settings(head_width=5), "head").name == "table_head_2"
    with pytest.raises(ClassifierError, match="table_head was begun with other images, labels or settings"):
        do(space, settings(head_width=5), "head", "table_head")
    assert do(space, settings(), "head").name == "table_head"


def test_an_encoder_that_is_trained_further_goes_with_its_head_and_is_told_of(
    space: Workspace, settings: Tiny, tmp_path: Path
) -> None:
    before = (space.checkpoints / "model" / "model.safetensors").read_bytes()
    result = do(space, settings(finetune_epochs=2, head_epochs=1, validation_share=0.01), "head", "tuned")
    history = files.read_json(result.folder / "history.json")
    assert [row["phase"] for row in history] == ["frozen", "finetuned", "finetuned"]
    tensors = classifiers.load_classifier(result.folder).tensors
    description = classifiers.read_description(result.folder)
    assert any(name.startswith("encoder.") for name in tensors) == description["head"]["finetuned"]
    assert 0 <= description["found"]["test_accuracy_with_the_encoder_frozen"] <= 1
    assert (space.checkpoints / "model" / "model.safetensors").read_bytes() == before
    losses, _, rates = head_history_figure(history).axes
    assert losses.lines[0].get_ydata().tolist() == [row["train_loss"] for row in history]  # type: ignore[union-attr]
    assert [line.get_linestyle() for line in rates.lines] == ["-", ":"]  # where the encoder begins to learn
    assert tell(space, settings(), "tuned", space.images, tmp_path / "told.csv").num_rejected == 0


def test_a_head_that_was_stopped_scales_float16_as_one_left_alone(
    space: Workspace, settings: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    scalers: list[torch.amp.GradScaler] = []

    def growing(_: Computation) -> torch.amp.GradScaler:
        scalers.append(torch.amp.GradScaler("cpu", init_scale=2.0, growth_interval=1))
        return scalers[-1]

    monkeypatch.setattr(Computation, "make_scaler", growing)
    do(space, settings(head_epochs=3), "head", "whole")
    with pytest.raises(StopRequested):
        do(space, settings(head_epochs=3), "head", "stopped", reporter=StopsAfter(4))
    do(space, settings(head_epochs=3), "head", "stopped")
    whole, _, resumed = scalers
    assert resumed.get_scale() == whole.get_scale() > 2.0


def test_an_encoder_that_is_trained_further_keeps_its_linear_path() -> None:
    plan = Plan("redux", (64, 64, 3), "patch", True, (Stage((16,), stride=32, pooling="no"),), 8, 16)
    encoder = build_autoencoder(plan, seed=0).encoder
    assert isinstance(encoder, LinearPathEncoder)
    model = EncoderAndHead(encoder, ClassifierHead(map_shapes(encoder, plan.picture_shape, "last"), 3, 4), "last")
    for phase, is_trained in (("frozen", False), ("finetuned", True)):
        model.set_phase(phase)
        assert all(weight.requires_grad == is_trained for weight in encoder.branch.parameters())
        assert not any(weight.requires_grad for weight in encoder.linear.parameters())


# ---------------------------------------------------------------- settings

CHANGES = {
    "test_share": ("probe", 0.5),
    "validation_share": ("probe", 0.5),
    "balance_classes": ("probe", False),
    "num_neighbours": ("knn", 1),
    "head_stages": ("head", "last"),
    "head_width": ("head", 5),
    "head_epochs": ("head", 1),
    "head_batch_size": ("head", 5),
    "head_learning_rate": ("head", 0.0001),
    "head_augmentation": ("head", False),
    "finetune_epochs": ("head", 1),
}


@pytest.fixture(scope="module")
def baselines(trained: Path, settings: Tiny) -> dict[str, bytes]:
    """What each method makes of classes of unequal size with no setting changed."""
    space = Workspace(trained)
    return {method: made_of(space, settings(), method, "base") for method in ("probe", "knn", "head")}  # type: ignore[arg-type]


def made_of(space: Workspace, settings: Settings, method: Method, name: str) -> bytes:
    """The weights, and of a head the epochs."""
    rows = [(f"{label}/{n:02}.png", label) for label in COLOURS for n in range(5 if label == "red" else NUM_EACH)]
    labels = write_labels(space.root / "unequal.csv", rows)
    folder = do(space, settings, method, f"{name}_{method}", labels=labels).folder
    history = files.read_json(folder / "history.json") if method == "head" else []
    phases = "".join(row["phase"] for row in history)
    return (folder / "classifier.safetensors").read_bytes() + phases.encode()


@pytest.mark.parametrize("name", CHANGES)
def test_each_setting_changes_the_classifier(
    trained: Path, settings: Tiny, baselines: dict[str, bytes], name: str
) -> None:
    method, value = CHANGES[name]
    changed = made_of(Workspace(trained), settings(**{name: value}), method, name)  # type: ignore[arg-type]
    assert changed != baselines[method]


def test_a_head_stops_when_no_epoch_is_better(space: Workspace, settings: Tiny, tmp_path: Path) -> None:
    rows = [(f"{label}/{n:02}.png", "odd" if n % 2 else "even") for label in COLOURS for n in range(NUM_EACH)]
    labels = write_labels(tmp_path / "l.csv", rows)  # nothing that can be learned
    num_epochs = [
        len(files.read_json(do(space, chosen, "head", labels=labels).folder / "history.json"))
        for chosen in (settings(head_patience=patience, head_epochs=12) for patience in (1, 0))
    ]
    assert num_epochs[0] < num_epochs[1] == 12


# ---------------------------------------------------------------- what can be wrong


def test_a_table_without_rows_and_images_of_one_class_are_refused(space: Workspace, settings: Tiny) -> None:
    for label in ("green", "violet"):
        shutil.rmtree(space.images / label)
    extract(space, settings(), space.checkpoints / "model", space.images, "table", SilentReporter())
    with pytest.raises(TooFewImagesError, match="here all 8 are red"):
        do(space, settings())
    (space.inference / "table" / "features.csv").unlink()
    with pytest.raises(ExtractionError, match="no rows that can be read"):
        do(space, settings())


def test_a_model_that_is_gone_or_another_is_told_so(space: Workspace, settings: Tiny) -> None:
    do(space, settings(), "probe", "one")
    model = space.checkpoints / "model"
    description = json.loads((model / "model.json").read_text(encoding="utf-8"))
    tensors = {name: one + 1 for name, one in tensors_from_bytes((model / "model.safetensors").read_bytes()).items()}
    (model / "model.safetensors").write_bytes(tensors_to_bytes(tensors))
    (model / "model.json").write_text(json.dumps(description | {"weights_sha256": ""}), encoding="utf-8")
    # The folder that the classifier was made with is another one, of the same name here.
    path = space.classifiers / "one" / "classifier.json"
    said = json.loads(path.read_text(encoding="utf-8"))
    said["checkpoint"]["folder"] = "nowhere"
    path.write_text(json.dumps(said), encoding="utf-8")
    with pytest.raises(CheckpointError, match="the classifier one was not made with model as it is now"):
        tell(space, settings(), "one", space.images)
    shutil.rmtree(model)
    for action in (
        lambda: tell(space, settings(), "one", space.images),
        lambda: do(space, settings(), "head"),
    ):
        with pytest.raises(CheckpointError, match="its checkpoint model is gone"):
            action()


def test_images_that_vanished_are_told_so(space: Workspace, settings: Tiny) -> None:
    shutil.rmtree(space.images)
    with pytest.raises(SourceError, match="can be read any more"):
        do(space, settings(), "head")
    result = do(space, settings(), "probe")  # its rows are still there
    assert result.num_test == 6


def test_some_images_that_vanished_are_left_out_of_a_head(space: Workspace, settings: Tiny) -> None:
    split = do(space, settings(), "knn").folder / "split.csv"
    lost = next(row["image"] for row in files.read_csv(split) if row["subset"] == "test")
    (space.images / lost).unlink()
    assert do(space, settings(head_epochs=1), "head").num_test == 5


def test_what_predict_cannot_do_is_said_in_a_line(space: Workspace, settings: Tiny, tmp_path: Path) -> None:
    with pytest.raises(ClassifierError, match="there is no classifier: train one"):
        space.find_classifier(None)
    do(space, settings(), "probe", "one")
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match="there are no images in"):
        tell(space, settings(), "one", tmp_path / "empty")
    (tmp_path / "there.csv").touch()
    with pytest.raises(UsageError, match="nothing is overwritten"):
        tell(space, settings(), "one", space.images, tmp_path / "there.csv")
    single = tmp_path / "single"
    single.mkdir()
    shutil.copy(space.images / "red" / "00.png", single / "odd, name.png")
    told = tell(space, settings(), "one", single)
    assert [row["image"] for row in files.read_csv(told.file)] == ["odd, name.png"]
    assert tell(space, settings(), "one", single).file.name == "predictions_single_2.csv"


def test_the_interval_of_the_accuracy_counts_what_belongs_together_once(space: Workspace, settings: Tiny) -> None:
    alone = do(space, settings(), "knn", "one")
    by_folder = do(space, settings(interval_groups="folders"), "knn", "two")
    assert "independent of each other" in alone.groups
    assert f"count 3 groups, not {by_folder.num_test} images" in by_folder.groups
    assert by_folder.scores.accuracy.mean == alone.scores.accuracy.mean
    assert by_folder.scores.accuracy.low < alone.scores.accuracy.low  # type: ignore[operator]
    said = files.read_json(by_folder.folder / "classifier.json")
    assert said["interval_groups"] == {"by": "folders", "num_groups": 3}
    assert by_folder.groups in (by_folder.folder / "report.html").read_text(encoding="utf-8")


class Remembering(SilentReporter):
    """Keeps the warnings of a job."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warning(self, text: str) -> None:
        self.warnings.append(text)


def summary_of(told: PredictResult) -> dict[str, Any]:
    found = json.loads(told.summary_file.read_text(encoding="utf-8"))
    assert isinstance(found, dict)
    return found


ENGINES = ["torch", *(["openvino"] if importlib.util.find_spec("openvino") else [])]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("method", ["probe", "knn"])
def test_pictures_are_encoded_as_the_rows_were_that_the_classifier_was_trained_on(
    space: Workspace, settings: Tiny, engine: str, method: Method
) -> None:
    made = settings(inference_engine=engine, inference_batch_size=5, feature_formats=("npy",))
    extract(space, made, space.checkpoints / "model", space.images, "other", SilentReporter())
    folder = space.inference / "other"
    classify(space, settings(), folder, None, method, "one", SilentReporter())
    otherwise = settings(use_mixed_precision=True, inference_batch_size=3, inference_engine="torch")
    reporter = Remembering()
    told = predict(space, otherwise, space.classifiers / "one", space.images, None, reporter)
    assert reporter.warnings == []
    summary = summary_of(told)
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    assert summary["computed_by"] == summary["trained_on_computed_by"] == manifest["computed_by"]
    assert (summary["computed_as_trained"], summary["difference"]) == (True, "")
    classifier = row_classifier_from(classifiers.load_classifier(space.classifiers / "one").tensors)
    expected = classifier.probabilities(np.load(folder / "features.npy"))
    found = [float(row["probability"]) for row in files.read_csv(told.file)]
    assert found == pytest.approx(expected.max(axis=1), abs=1e-6)


@pytest.mark.parametrize("method", ["probe", "head"])
@pytest.mark.parametrize("change", [{"engine_version": "1.0"}, {"decoders": "Pillow 1"}, None])
def test_where_this_machine_computes_in_another_way_it_is_said_on_the_screen_and_in_the_summary(
    space: Workspace, settings: Tiny, method: Method, change: dict[str, str] | None
) -> None:
    do(space, settings(head_epochs=1), method, "one")
    path = space.classifiers / "one" / "classifier.json"
    said = json.loads(path.read_text(encoding="utf-8"))
    if change is None:  # as the first versions wrote it
        del said["computed_by"]
    else:
        said["computed_by"] |= change
    path.write_text(json.dumps(said), encoding="utf-8")
    reporter = Remembering()
    told = predict(space, settings(), space.classifiers / "one", space.images, None, reporter)
    (line,) = reporter.warnings
    assert len(line.splitlines()) == 1
    words = "does not say how" if change is None else f"its {next(iter(change)).replace('_', ' ')} is"
    assert words in line
    summary = summary_of(told)
    assert not summary["computed_as_trained"]
    assert words in summary["difference"]


def test_a_head_is_computed_in_the_precision_that_it_was_trained_in(space: Workspace, settings: Tiny) -> None:
    do(space, settings(head_epochs=1), "head", "one")
    told = tell(space, settings(use_mixed_precision=True), "one", space.images)
    assert summary_of(told)["computed_by"]["precision"] == "float32"
    assert summary_of(told)["computed_as_trained"]


@pytest.mark.parametrize("what", ["classifier.json", "classifier.safetensors"])
def test_a_damaged_classifier_is_told_so(space: Workspace, settings: Tiny, what: str) -> None:
    do(space, settings(), "probe", "one")
    path = space.classifiers / "one" / what
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ClassifierError, match="the classifier one is damaged"):
        tell(space, settings(), "one", space.images)


def test_a_head_that_fits_another_model_is_told_so(space: Workspace, settings: Tiny) -> None:
    do(space, settings(head_epochs=1), "head", "one")
    path = space.classifiers / "one" / "classifier.json"
    said = json.loads(path.read_text(encoding="utf-8"))
    said["head"]["width"] = 7
    path.write_text(json.dumps(said), encoding="utf-8")
    with pytest.raises(ClassifierError, match="does not fit its model"):
        tell(space, settings(), "one", space.images)


# ---------------------------------------------------------------- the recipe


def test_the_recipe_keeps_its_test_images_from_all_training_and_drops_half_of_three_classes(
    tmp_path: Path, settings: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fext.jobs.pretrain._draw_pictures", lambda run, state: None)
    space = Workspace(tmp_path)
    write_classes(space.images, ("bird", "cat", "deer", "truck"), count=20)
    result = cifar10(space, settings(head_epochs=1), space.images, "small", 1, SilentReporter())
    split = files.read_csv(result.folder / "split.csv")
    seen = load_split(space.checkpoints / "small")
    test = {row["image"] for row in split if row["subset"] == "test"}
    assert len(test) == 16
    assert test.isdisjoint(seen.names())
    learned = [row["label"] for row in split if row["subset"] != "test"]
    assert {label: learned.count(label) for label in set(learned)} == {"bird": 8, "cat": 16, "deer": 8, "truck": 8}
    assert {*seen.train, *seen.validation} == {row["image"] for row in split if row["subset"] == "train"}
    assert classifiers.read_description(result.folder)["head"]["finetuned"] is False
    with pytest.raises(ClassifierError, match="already a classifier small"):
        cifar10(space, settings(head_epochs=1), space.images, "small", 1, SilentReporter())
    shutil.rmtree(result.folder)
    write_classes(tmp_path / "others", ("bird", "cat"), count=12, seed=3)
    for path in sorted((tmp_path / "others").rglob("*.png")):
        path.rename(path.with_name(f"other_{path.name}"))
    with pytest.raises(CheckpointError, match="of another experiment"):
        cifar10(space, settings(head_epochs=1), tmp_path / "others", "small", 1, SilentReporter())


def test_the_recipe_wants_class_folders(tmp_path: Path, settings: Tiny) -> None:
    write_classes(tmp_path / "few", count=3)
    with pytest.raises(FextError, match="the recipe needs 10 images of each class, and green has 3"):
        cifar10(Workspace(tmp_path), settings(), tmp_path / "few", "x", 1, SilentReporter())
    with pytest.raises(
        FextError, match=r"the recipe needs a folder for each class in .*red, two or more, of 10 images"
    ):
        cifar10(Workspace(tmp_path), settings(), tmp_path / "few" / "red", "x", 1, SilentReporter())


def test_a_probe_is_nothing_but_numbers(space: Workspace, settings: Tiny) -> None:
    result = do(space, settings(), "probe")
    tensors = classifiers.load_classifier(result.folder).tensors
    assert {name: tuple(one.shape) for name, one in tensors.items()} == {"weights": (3, 512), "biases": (3,)}
    assert isinstance(row_classifiers.row_classifier_from(tensors), LinearProbe)
