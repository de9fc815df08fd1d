"""Finding anomalies: what is unlike the normal images a model was trained on, and where in an image it is."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.covariance import EmpiricalCovariance
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors

from fext.compute.device import prepare_computation
from fext.errors import CheckpointError, SettingsError, SourceError
from fext.jobs.anomalies import find_anomalies
from fext.jobs.anomaly_output import heat_map
from fext.jobs.anomaly_scores import make_judge
from fext.jobs.pretrain import pretrain
from fext.model.anomalies import (
    PositionGaussian,
    VectorSample,
    coreset,
    early_stages,
    local_contrast,
    nearest_distances,
    places_of_map,
    seen_places,
)
from fext.model.autoencoder import build_autoencoder
from fext.model.detection import curves, f1_score, false_alarm_threshold
from fext.model.plans import make_plan
from fext.model.verdict import NO_REFERENCES
from fext.pictures.anomalies_report import verdicts
from fext.reporting import Reporter, SilentReporter
from fext.settings import Settings
from fext.store import files
from fext.store.checkpoints import load_checkpoint
from fext.store.workspace import Workspace

CHECKPOINT = Path("training", "checkpoints", "surfaces")
SIDE = 64
NUM_NORMAL, NUM_TRAIN, NUM_SPOTS = 24, 12, 4
SPOT = (40, 20)  # row and column of the middle of the defect


def surface(number: int, *, spot: bool = False) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """A grainy grey surface, lit from a side of its own; with a bright spot where asked for."""
    random = np.random.default_rng(number)
    light = np.linspace(0, random.uniform(-60, 60), SIDE)[None, :] + random.uniform(90, 140)
    pixels = light + random.normal(0, 8, (SIDE, SIDE))
    if spot:
        row, column = SPOT
        pixels[row - 3 : row + 4, column - 3 : column + 4] += 70
    return np.clip(pixels, 0, 255).astype(np.uint8)


def write_surfaces(folder: Path) -> None:
    """normal/ and spot/, and a file that is no image."""
    for name, count, spot in (("normal", NUM_NORMAL, False), ("spot", NUM_SPOTS, True)):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            pixels = surface(number + 1000 * spot, spot=spot)
            Image.fromarray(pixels).save(folder / name / f"{number:02}.png")
    (folder / "other.txt").write_text("not an image")


class Notes(SilentReporter):
    """Keeps what a user is warned of."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warning(self, text: str) -> None:
        self.warnings.append(text)


@pytest.fixture
def notes() -> Notes:
    return Notes()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny: Any) -> tuple[Workspace, Settings]:
    """A workspace with a checkpoint `surfaces`: 12 normal images trained it, 2 chose its epoch, 10 are held back."""
    space = Workspace(tmp_path_factory.mktemp("anomalies"))
    write_surfaces(space.images)
    settings = tiny(
        picture_shape=(SIDE, SIDE, 1), architecture="custom", filters=(8, 16), layers_per_block=(1,),
        num_train_samples=NUM_TRAIN + 2, num_validation_samples=2, num_test_samples=10, epochs=1, anomaly_bank=100,
        encoder_weights="none",
    )  # fmt: skip
    pretrain(space, settings, space.images / "normal", "surfaces", SilentReporter())
    return space, settings


def search(
    trained: tuple[Workspace, Settings], images: Path, reporter: Reporter | None = None, **options: Any
) -> tuple[list[dict[str, str]], dict[str, Any], Path]:
    """Rows of anomalies.csv, summary.json and the folder."""
    space, settings = trained
    normal, references = options.pop("normal", "normal"), options.pop("references", False)
    result = find_anomalies(
        space, settings.model_copy(update=options), space.checkpoints / "surfaces", images, normal,
        reporter or SilentReporter(), references=references,
    )  # fmt: skip
    summary = json.loads((result.folder / "summary.json").read_text(encoding="utf-8"))
    assert summary == json.loads(json.dumps(result.summary))
    return files.read_csv(result.folder / "anomalies.csv"), summary, result.folder


@pytest.fixture(scope="module")
def found(trained: tuple[Workspace, Settings]) -> tuple[list[dict[str, str]], dict[str, Any], Path]:
    return search(trained, trained[0].images, references=True)


def test_spots_are_found_and_told_from_normal_images(found: Any) -> None:
    rows, summary, folder = found
    assert [row["folder"] for row in rows[:NUM_SPOTS]] == ["spot"] * NUM_SPOTS
    assert all(row["is_anomaly"] == "True" for row in rows[:NUM_SPOTS])
    assert summary["scores"]["combined"]["auroc"] == 1.0
    assert summary["folders"]["spot"] == {"num_images": NUM_SPOTS, "num_found": NUM_SPOTS, "auroc": 1.0}
    assert folder.name == "anomalies_surfaces_images"
    assert (folder / "report.html").stat().st_size > 10_000


def test_the_heat_is_highest_where_the_defect_is(trained: tuple[Workspace, Settings]) -> None:
    space, settings = trained
    checkpoint = load_checkpoint(space.checkpoints / "surfaces")
    judge = make_judge(checkpoint, settings, prepare_computation(settings), None, SilentReporter(), references=False)
    split, folder = checkpoint.split(), space.images / "normal"
    judge.learn(*batch([folder / name for name in split.train]))
    judge.finish()
    held_back = [judged.scores for judged in judge.judge(*batch([folder / name for name in split.test[:4]]))]
    normal = {name: np.array([scores[name] for scores in held_back]) for name in held_back[0]}
    for judged in judge.judge(*batch(sorted((space.images / "spot").iterdir())[:4])):
        heat = heat_map(judge, judged.places, normal, checkpoint.preprocessing)
        row, column = np.unravel_index(heat.argmax(), heat.shape)
        assert np.hypot(row - SPOT[0], column - SPOT[1]) < 8
        assert heat.max() > 2 * np.median(heat)


def batch(paths: Sequence[Path]) -> tuple[torch.Tensor, Sequence[Path]]:
    """Pictures (N, 1, 64, 64) and their files, four at most as the settings have it."""
    pixels = np.stack([np.asarray(Image.open(path), np.float32) / 255 for path in paths[:4]])
    return torch.from_numpy(pixels)[:, None], paths[:4]


def test_no_train_image_is_scored_and_it_is_said_how_many_are_left_out(found: Any) -> None:
    rows, summary, folder = found
    split = {row["image"]: row["subset"] for row in files.read_csv(folder.parents[1] / CHECKPOINT / "split.csv")}
    scored = {row["image"] for row in rows}
    assert not {f"normal/{name}" for name, subset in split.items() if subset == "train"} & scored
    assert len(rows) == summary["num_scored"] == NUM_NORMAL - NUM_TRAIN + NUM_SPOTS
    assert summary["num_train_left_out"] == NUM_TRAIN
    assert sum(row["sets_threshold"] == "True" for row in rows) == 10


def test_the_references_stand_beside_the_model(found: Any) -> None:
    rows, summary, _ = found
    assert {"linear_map_latent_gaussian", "untrained_latent_patches", "linear_map_reconstruction_local"} <= set(rows[0])
    assert summary["combined_of"] == ["pixels_gaussian", "pixels_patches"]


def test_the_verdict_on_the_features_comes_first_and_a_search_without_references_says_how_to_ask(
    trained: tuple[Workspace, Settings], found: Any
) -> None:
    _, summary, folder = found
    verdict = summary["verdict"]
    assert set(verdict["model_minus"]) == {"untrained", "linear_map", "pixels"}
    assert verdicts(summary)[: len(verdict["sentences"])] == verdict["sentences"]
    assert all(sentence in (folder / "report.html").read_text(encoding="utf-8") for sentence in verdict["sentences"])
    _, alone, _ = search(trained, trained[0].images)
    assert alone["verdict"] is None
    assert verdicts(alone)[-1] == NO_REFERENCES


def test_a_score_below_chance_or_below_its_own_parts_is_never_left_without_a_word(found: Any) -> None:
    _, summary, _ = found

    def said(combined: float, gaussian: float, patches: float, folder: float = 0.9) -> str:
        aurocs = {"combined": combined, "pixels_gaussian": gaussian, "pixels_patches": patches}
        scores = {name: summary["scores"][name] | {"auroc": auroc} for name, auroc in aurocs.items()}
        folders = {"spot": summary["folders"]["spot"] | {"auroc": folder}}
        return " ".join(verdicts(summary | {"scores": scores, "folders": folders, "verdict": None}))

    assert "0.800, is below the best of its parts, pixels_patches with 0.900" in said(0.8, 0.7, 0.9)
    assert "below" not in said(0.9, 0.7, 0.9)
    assert "The combined score is below chance: its AUROC is 0.400" in said(0.4, 0.3, 0.2)
    assert "by themselves: pixels_gaussian, pixels_patches." in said(0.4, 0.3, 0.2)
    assert "The combined score is below chance for these folders: spot." in said(0.9, 0.7, 0.9, folder=0.4)


def test_the_combined_score_is_the_mean_of_what_is_asked_for(trained: tuple[Workspace, Settings]) -> None:
    views = ("pixels", "latent", "reconstruction")
    rows, summary, _ = search(trained, trained[0].images, anomaly_views=views)
    assert all(name.startswith(views) for name in summary["combined_of"])
    assert len(summary["combined_of"]) == 7
    held_back = [row["sets_threshold"] == "True" for row in rows]
    logarithms = {name: np.log([float(row[name]) for row in rows]) for name in summary["combined_of"]}
    scales = [(each - each[held_back].mean()) / each[held_back].std() for each in logarithms.values()]
    assert [float(row["combined"]) for row in rows] == pytest.approx(np.mean(scales, axis=0).tolist())
    with pytest.raises(SettingsError, match="has no stages before its latent"):
        search(trained, trained[0].images, anomaly_views=("early",))


def test_the_rows_are_ranked_and_above_the_threshold_is_an_anomaly(found: Any) -> None:
    rows, summary, _ = found
    scores = [float(row["combined"]) for row in rows]
    assert scores == sorted(scores, reverse=True)
    assert [row["is_anomaly"] == "True" for row in rows] == [score > summary["threshold"] for score in scores]
    assert summary["num_found"] == sum(score > summary["threshold"] for score in scores)


def test_the_threshold_lets_the_asked_share_of_held_back_images_pass(
    trained: tuple[Workspace, Settings], found: Any
) -> None:
    for share, (rows, summary, _) in (
        (0.0, found),
        (0.2, search(trained, trained[0].images, anomaly_false_alarms=0.2)),
    ):
        held_back = [row for row in rows if row["sets_threshold"] == "True"]
        assert sum(row["is_anomaly"] == "True" for row in held_back) == round(share * len(held_back))
        assert summary["false_alarms_held_back"] == pytest.approx(share)


def test_the_threshold_of_best_f1_is_best(trained: tuple[Workspace, Settings]) -> None:
    _, summary, _ = search(trained, trained[0].images, anomaly_threshold="best_f1")
    assert summary["threshold_by"] == "best_f1"
    assert summary["f1"] == pytest.approx(summary["scores"]["combined"]["best_f1"])


def test_a_folder_without_folders_is_scored_without_labels(
    trained: tuple[Workspace, Settings], tmp_path: Path, notes: Notes
) -> None:
    for number in range(3):
        Image.fromarray(surface(2000 + number, spot=number == 1)).save(tmp_path / f"{number}.png")
    (tmp_path / "bad.png").write_bytes(b"nothing")
    rows, summary, folder = search(trained, tmp_path, notes, anomaly_threshold="best_f1")
    assert (rows[0]["image"], rows[0]["folder"], rows[0]["is_anomaly"]) == ("1.png", "", "True")
    assert summary["num_rejected"] == 1
    assert [row["image"] for row in files.read_csv(folder / "rejected.csv")] == ["bad.png"]
    assert "scores" not in summary
    assert any("anomaly_threshold = 'best_f1' wants normal and anomalous images" in text for text in notes.warnings)
    assert "Receiver operating" not in (folder / "report.html").read_text(encoding="utf-8")


def test_one_image_will_do_and_the_settings_change_what_is_found_of_it(
    trained: tuple[Workspace, Settings], tmp_path: Path
) -> None:
    Image.fromarray(surface(3000, spot=True)).save(tmp_path / "only.png")
    (usual,), _, folder = search(trained, tmp_path)
    written = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert sorted(written) == ["anomalies.csv", "rejected.csv", "report.html", "summary.json"]
    (changed,), _, _ = search(trained, tmp_path, anomaly_relative=False, anomaly_bank=5)
    assert changed["pixels_gaussian"] != usual["pixels_gaussian"]
    (small,), _, _ = search(trained, tmp_path, anomaly_bank=5)
    assert small["pixels_patches"] != usual["pixels_patches"]
    assert small["pixels_gaussian"] == usual["pixels_gaussian"]
    search(trained, tmp_path)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == written  # the same search, the same files


def test_what_cannot_be_searched_is_refused_in_one_line(trained: tuple[Workspace, Settings], tmp_path: Path) -> None:
    space, _ = trained
    with pytest.raises(SourceError, match="no images in one named 'fine'"):
        search(trained, space.images, normal="fine")
    with pytest.raises(SourceError, match="there are no images in"):
        search(trained, tmp_path)
    with pytest.raises(SourceError, match="does not exist"):
        search(trained, tmp_path / "nowhere")
    (tmp_path / "bad.png").write_bytes(b"nothing")
    with pytest.raises(SourceError, match=r"none of the 1 images to score in .* can be read"):
        search(trained, tmp_path)
    train = [row["image"] for row in files.read_csv(space.root / CHECKPOINT / "split.csv")][:3]
    listed = tmp_path / "train.txt"
    listed.write_text("\n".join(str(space.images / "normal" / name) for name in train))
    with pytest.raises(SourceError, match=r"all 3 images in .* are train images of surfaces"):
        search(trained, listed)


def renamed_copy(folder: Path, target: Path) -> Path:
    """The pictures of a folder under other names, each still in the folder that says what it shows."""
    for number, path in enumerate(sorted(folder.rglob("*.png"))):
        copy = target / path.parent.relative_to(folder) / f"copy {number:02}.png"
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)
    return target


def test_in_a_renamed_copy_of_the_folder_no_train_image_is_scored_either(
    trained: tuple[Workspace, Settings], found: Any, tmp_path: Path
) -> None:
    rows, summary, _ = search(trained, renamed_copy(trained[0].images, tmp_path / "copy"))
    assert summary["num_train_left_out"] == NUM_TRAIN
    assert summary["num_scored"] == found[1]["num_scored"] == len(rows)
    assert sum(row["sets_threshold"] == "True" for row in rows) == 10
    assert summary["threshold"] == found[1]["threshold"]


def test_images_that_were_moved_and_renamed_still_say_what_is_normal(
    trained: tuple[Workspace, Settings], found: Any, tmp_path: Path
) -> None:
    space, _ = trained
    copy, moved = renamed_copy(space.images, tmp_path / "copy"), space.images.with_name("moved")
    space.images.rename(moved)
    try:
        summary = search(trained, copy)[1]
    finally:
        moved.rename(space.images)
    assert summary["num_train_left_out"] == NUM_TRAIN
    assert summary["threshold"] == found[1]["threshold"]


def test_a_file_that_has_replaced_a_train_image_is_not_learned_as_normal(
    trained: tuple[Workspace, Settings], notes: Notes
) -> None:
    space, _ = trained
    rows = files.read_csv(space.root / CHECKPOINT / "split.csv")
    name = next(row["image"] for row in rows if row["subset"] == "train")
    path = space.images / "normal" / name
    before = path.read_bytes()
    Image.fromarray(surface(4000, spot=True)).save(path)
    try:
        rows, summary, _ = search(trained, space.images, notes)
    finally:
        path.write_bytes(before)
    assert summary["num_train_left_out"] == NUM_TRAIN - 1
    assert f"normal/{name}" in {row["image"] for row in rows}
    assert f"rejected: {name} (it is not the file any more that it was at first)" in notes.warnings


def test_a_checkpoint_whose_images_are_gone_is_refused(trained: tuple[Workspace, Settings], tmp_path: Path) -> None:
    space, settings = trained
    Image.fromarray(surface(3000)).save(tmp_path / "a.png")
    moved = space.images.with_name("moved")
    space.images.rename(moved)
    try:
        with pytest.raises(SourceError, match=r"are no longer in .*: bring them back"):
            search(trained, tmp_path)
    finally:
        moved.rename(space.images)
    with pytest.raises(CheckpointError, match="gone"):
        find_anomalies(
            space, settings, space.checkpoints / "gone", tmp_path, "normal", SilentReporter(), references=False
        )


# ---------------------------------------------------------------- the parts, beside reference implementations


def vectors(count: int, size: int = 6) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    mixing = torch.randn(size, size, generator=generator)
    return torch.randn(count, size, generator=generator) @ mixing + 2


def test_distances_are_those_of_scikit_learn() -> None:
    normal, others = vectors(500), vectors(40) * 2
    gaussian = PositionGaussian(6)
    for part in torch.split(normal, 77):
        gaussian.learn(part)
    gaussian.finish()
    reference = EmpiricalCovariance().fit(normal.numpy()).mahalanobis(others.numpy())
    assert gaussian.whiten(others).square().sum(dim=1).numpy() == pytest.approx(reference, rel=1e-3)


def test_only_the_leading_directions_count_where_so_asked() -> None:
    normal = vectors(500)
    gaussian = PositionGaussian(6)
    gaussian.learn(normal)
    gaussian.finish(kept_variance=0.9)
    pca = PCA(0.9, whiten=True, svd_solver="full").fit(normal.numpy())
    projected = pca.transform(normal.numpy())
    assert gaussian.whiten(normal).shape == projected.shape
    lengths = gaussian.whiten(normal).square().sum(dim=1).numpy()
    assert lengths == pytest.approx((projected**2).sum(axis=1), rel=0.01, abs=1e-3)


def test_nearest_distances_are_those_of_scikit_learn() -> None:
    bank, others = vectors(300), vectors(50) + 0.5
    reference = NearestNeighbors(n_neighbors=1).fit(bank.numpy()).kneighbors(others.numpy())[0][:, 0]
    assert nearest_distances(others, bank).numpy() == pytest.approx(reference, rel=1e-3, abs=1e-3)


def test_curves_are_those_of_counting_by_hand() -> None:
    scores, is_anomalous = np.array([0.1, 0.4, 0.35, 0.8]), np.array([False, False, True, True])
    found = curves(scores, is_anomalous)
    assert found is not None
    assert found.auroc == 0.75
    assert found.best_f1 == pytest.approx(0.8)
    assert f1_score(scores > found.best_threshold, is_anomalous) == pytest.approx(found.best_f1)
    assert curves(scores, np.zeros(4, bool)) is None


def test_a_sample_is_fair_and_bounded() -> None:
    sample = VectorSample(1000, seed=1)
    for start in range(0, 20_000, 500):
        sample.add(torch.arange(start, start + 500, dtype=torch.float32)[:, None])
    kept = sample.vectors()[:, 0]
    assert len(kept) == len(set(kept.tolist())) == 1000
    assert abs(float(kept.mean()) - 10_000) < 1000


def test_a_coreset_covers_what_few_vectors_stand_for() -> None:
    points = torch.cat([torch.zeros(100, 2), torch.full((100, 2), 5.0), torch.tensor([[9.0, 0.0]])])
    assert {tuple(point) for point in coreset(points, 3).tolist()} == {(0.0, 0.0), (5.0, 5.0), (9.0, 0.0)}


def test_a_threshold_is_the_lowest_that_keeps_its_promise() -> None:
    normal = np.arange(100.0)
    assert false_alarm_threshold(normal, 0.05) == 94
    assert false_alarm_threshold(normal, 0.0) == 99
    assert false_alarm_threshold(np.array([3.0]), 0.05) == 3


def test_black_bands_of_a_padded_picture_do_not_count() -> None:
    images = torch.zeros(1, 1, 64, 64)
    images[:, :, 16:48] = 0.5
    images[:, :, 30, 10] = 0  # a black place within the picture is seen
    seen = seen_places(images)
    assert seen.sum() == 32 * 64
    counts = places_of_map(seen, 16, 16, margin=4)
    assert counts[0].any(dim=1).nonzero()[:, 0].tolist() == list(range(5, 11))


def test_local_contrast_takes_the_lighting_away() -> None:
    texture = torch.from_numpy(np.random.default_rng(0).normal(0, 0.05, (64, 64)).astype(np.float32))
    seen = torch.ones(1, 1, 64, 64)
    plain = local_contrast((texture + 0.5)[None, None], seen, 4.0)
    lit = local_contrast((texture + 0.3 + torch.linspace(0, 0.2, 64))[None, None], seen, 4.0)
    assert torch.corrcoef(torch.stack([plain.flatten(), lit.flatten()]))[0, 1] > 0.99


def test_early_stages_are_those_before_the_latent() -> None:
    encoder = build_autoencoder(make_plan("redux", (64, 64, 3), linear_shortcut=False), 0).eval().encoder
    stages = early_stages(encoder, torch.zeros(1, 3, 64, 64), 32)
    assert stages is not None
    assert stages(torch.zeros(2, 3, 64, 64)).shape == (2, 32 + 64, 8, 8)
    assert early_stages(encoder, torch.zeros(1, 3, 64, 64), 4) is None
