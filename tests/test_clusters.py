"""Clusters of images: groups that are there are found, and what is said of them is right."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import write_configurations
from handmade import blobs, write_table
from PIL import Image
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from sklearn.metrics.cluster import contingency_matrix

from fext.compute import clustering
from fext.compute.clustering import agreement, k_means, nmi_without_each
from fext.compute.components import learn_components
from fext.errors import CheckpointError, ExtractionError, FextError, UsageError
from fext.jobs.clusters import ClustersResult, cluster
from fext.jobs.extract import extract
from fext.jobs.pretrain import pretrain
from fext.model.verdict import NO_REFERENCES
from fext.pictures.clusters_report import verdicts
from fext.reporting import SilentReporter
from fext.screen.actions import Screen
from fext.screen.console import make_console
from fext.screen.explorations import clusters as entry
from fext.screen.program import main
from fext.settings import Settings
from fext.store import files, scratch
from fext.store.workspace import Workspace

Tiny = Callable[..., Settings]
Divide = Callable[..., ClustersResult]
GREY = {"picture_shape": (64, 64, 1)}  # the linear map is found in a third of the time


class Heard(SilentReporter):
    """Keeps what a job says."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def message(self, text: str) -> None:
        self.lines.append(text)

    def warning(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is printed is not broken in the middle of a path."""
    monkeypatch.setenv("COLUMNS", "300")


@pytest.fixture
def space(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path)


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture
def divide(space: Workspace, tiny: Tiny, heard: Heard) -> Divide:
    """Clusters the table of the workspace, with settings changed."""

    def do(count: int | None = None, references: bool = False, **changes: object) -> ClustersResult:
        settings = tiny(num_processors=1, **changes)
        return cluster(space, settings, space.inference / "table", heard, count, references)

    return do


def clusters_of(folder: Path) -> dict[str, set[str]]:
    """The images in each cluster, as clusters.csv has them."""
    found: dict[str, set[str]] = {}
    for row in files.read_csv(folder / "clusters" / "clusters.csv"):
        found.setdefault(row["cluster"], set()).add(row["image"])
    return found


# ---------------------------------------------------------------- finding what is there


@pytest.mark.parametrize("changes", [{}, {"num_clusters": 3}, {"cluster_method": "hdbscan"}], ids=str)
def test_three_groups_that_are_there_are_found(space: Workspace, divide: Divide, changes: dict[str, object]) -> None:
    folder = write_table(space, blobs())
    summary = divide(**changes).summary
    assert (summary["num_clusters"], summary["sizes"], summary["num_alone"]) == (3, [12, 12, 12], 0)
    assert sorted(map(sorted, clusters_of(folder).values())) == sorted(
        sorted(name for name in blobs() if name.startswith(label)) for label in ("cats", "dogs", "owls")
    )
    assert summary["labels"] == {"nmi": pytest.approx(1), "ari": 1, "purity": 1}
    assert summary["silhouette"] > 0.8


def test_the_number_of_clusters_is_the_one_with_the_highest_silhouette(space: Workspace, divide: Divide) -> None:
    write_table(space, blobs())
    result = divide()
    curve = result.summary["silhouette_by_count"]
    assert max(curve, key=curve.__getitem__) == 3
    assert {2, 3, 4, 10, 20, 35} <= set(curve)
    assert "3 has the highest silhouette" in result.verdicts[0]


def test_settings_and_count_say_how_many_clusters_there_are(space: Workspace, divide: Divide) -> None:
    write_table(space, blobs())
    assert divide(num_clusters=5).summary["num_clusters"] == 5
    assert divide(4, num_clusters=5).summary["num_clusters"] == 4
    assert divide(4).summary["silhouette_by_count"] == {}


def test_min_cluster_size_is_what_hdbscan_takes_for_a_cluster(space: Workspace, divide: Divide) -> None:
    write_table(space, blobs(per_blob=4))
    assert divide(cluster_method="hdbscan", min_cluster_size=3).summary["sizes"] == [4, 4, 4]
    assert divide(cluster_method="hdbscan", min_cluster_size=5).summary["num_alone"] == 12


def test_length_and_a_common_part_of_the_rows_play_no_role(space: Workspace, divide: Divide) -> None:
    rows = {
        name: ((1 + place % 5) * np.array(row) + 50).tolist()
        for place, (name, row) in enumerate(sorted(blobs().items()))
    }
    write_table(space, rows)
    assert divide(3).summary["labels"]["purity"] > 0.9


def test_rows_that_lie_on_the_disk_in_blocks_make_the_same_clusters(
    space: Workspace, divide: Divide, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_table(space, blobs())
    divide()
    before, there = clusters_of(folder), sorted(folder.rglob("*"))
    monkeypatch.setattr(scratch, "_MAX_IN_MEMORY", 0)
    monkeypatch.setattr(clustering, "_FEW", 10)  # as if they were many
    monkeypatch.setattr(clustering, "_BLOCK", 7)
    divide()
    assert clusters_of(folder) == before
    assert sorted(folder.rglob("*")) == there


def test_of_more_points_than_hdbscan_takes_the_others_go_with_the_nearest(
    space: Workspace, divide: Divide, heard: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_table(space, blobs(per_blob=20))
    monkeypatch.setattr(clustering, "MOST_BY_DENSITY", 40)
    assert divide(cluster_method="hdbscan").summary["sizes"] == [20, 20, 20]
    assert "hdbscan divides 40 of the images; each of the other 20 takes the cluster of the nearest" in heard.lines[0]


# ---------------------------------------------------------------- scores


def test_agreement_is_that_of_sklearn() -> None:
    random = np.random.default_rng(2)
    labels, clusters = random.integers(0, 5, 200).astype(np.int32), random.integers(-1, 4, 200).astype(np.int32)
    clusters[:100] = labels[:100] % 4
    found = agreement(labels, clusters)
    assert found.nmi == pytest.approx(normalized_mutual_info_score(labels, clusters))
    assert found.ari == pytest.approx(adjusted_rand_score(labels, clusters))
    assert found.purity == pytest.approx(contingency_matrix(labels, clusters).max(axis=0).sum() / 200)


def test_clusters_are_numbered_by_size_and_distances_are_to_their_mean() -> None:
    points = np.float32([[0, 0], [9, 9], [9, 8], [9, 10], [0, 1]])
    clusters = k_means(points, 2, 0)
    assert clusters.tolist() == [1, 0, 0, 0, 1]
    assert clustering.centre_distances(points, clusters) == pytest.approx([0.5, 0, 1, 1, 0.5])


def test_labels_csv_counts_images_by_label_and_cluster(space: Workspace, divide: Divide) -> None:
    folder = write_table(space, blobs())
    divide(3)
    rows = files.read_csv(folder / "clusters" / "labels.csv")
    assert [row.pop("label") for row in rows] == ["cats", "dogs", "owls"]
    assert [sorted(row.values()) for row in rows] == [["0", "0", "12"]] * 3


def test_images_without_labels_get_no_scores_and_no_label(space: Workspace, divide: Divide) -> None:
    folder = write_table(space, {name.replace("/", "_"): row for name, row in blobs().items()})
    summary = divide(3).summary
    assert summary["labels"] is None
    assert set(files.read_csv(folder / "clusters" / "clusters.csv")[0]) == {
        "image",
        "cluster",
        "distance",
        "silhouette",
    }
    assert not (folder / "clusters" / "labels.csv").exists()


# ---------------------------------------------------------------- what is written


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in (folder / "clusters").iterdir()}


def test_the_same_seed_makes_the_same_bytes(space: Workspace, divide: Divide) -> None:
    folder = write_table(space, blobs())
    divide()
    first = contents(folder)
    assert set(first) == {"clusters.csv", "labels.csv", "summary.json", "report.html"}
    divide()
    assert contents(folder) == first
    assert divide(seed=7).summary["settings"]["seed"] == 7


def test_the_page_shows_typical_and_outlying_members_with_their_names_as_text(space: Workspace, divide: Divide) -> None:
    odd = "'&" if os.name == "nt" else "<script>'&"
    rows = {name.replace("cats/0", f"cats/{odd}"): row for name, row in blobs().items()}
    folder = write_table(space, rows)
    divide(3)
    page = (folder / "clusters" / "report.html").read_text(encoding="utf-8")
    assert page.count("Farthest out:") == 3
    assert page.count('class="item"') == 3 * (6 + 4)
    assert page.count("data:image/webp") == 30
    assert "<script>'" not in page
    assert "Cluster 2: 12 images" in page


def test_images_that_vanished_are_counted(space: Workspace, divide: Divide, heard: Heard) -> None:
    write_table(space, blobs(per_blob=3))
    for path in (space.images / "cats").iterdir():
        path.unlink()
    assert divide(3).summary["num_clusters"] == 3
    assert "3 of the images on the page cannot be read now: it says why" in heard.lines


# ---------------------------------------------------------------- what cannot be clustered


def test_more_clusters_than_images_are_refused(space: Workspace, divide: Divide) -> None:
    write_table(space, blobs(per_blob=1))
    with pytest.raises(UsageError, match="4 clusters cannot be made of 3 images: ask for fewer"):
        divide(4)
    assert divide(3).summary["sizes"] == [1, 1, 1]


@pytest.mark.parametrize(
    ("count", "changes", "error", "message"),
    [
        (1, {}, UsageError, "--count 1: two clusters at least"),
        (3, {"cluster_method": "hdbscan"}, UsageError, "hdbscan finds the number of clusters itself"),
        (None, {}, ExtractionError, "table: one image is too few to be divided: extract from more images"),
        (None, {"cluster_method": "hdbscan"}, ExtractionError, "lower min_cluster_size"),
        (2, {}, ExtractionError, "table: one image is too few to be divided"),
    ],
)
def test_one_image_and_wrong_counts_are_refused_in_a_line(
    space: Workspace,
    divide: Divide,
    count: int | None,
    changes: dict[str, object],
    error: type[FextError],
    message: str,
) -> None:
    write_table(space, {"a.png": [1, 2]})
    with pytest.raises(error, match=message):
        divide(count, **changes)


@pytest.mark.parametrize("changes", [{}, {"num_clusters": 2}, {"cluster_method": "hdbscan"}], ids=str)
def test_rows_that_are_all_equal_are_said_to_be(space: Workspace, divide: Divide, changes: dict[str, object]) -> None:
    write_table(space, {f"{number}.png": [0.1, 0.7, 1e-3] for number in range(9)})
    with pytest.raises(ExtractionError, match="features of all images of table are equal"):
        divide(**changes)


def test_fewer_different_rows_than_clusters_are_told(space: Workspace, divide: Divide, heard: Heard) -> None:
    write_table(space, {f"{number}.png": [[1.0, 0, 0], [0, 1, 0], [0, 0, 1]][number % 3] for number in range(9)})
    assert divide(5).summary["sizes"] == [3, 3, 3]
    assert "only 3 clusters, not 5: no more of the images differ" in heard.lines
    assert divide().summary["num_clusters"] == 3


def test_hdbscan_that_finds_no_cluster_says_so(space: Workspace, divide: Divide, heard: Heard) -> None:
    random = np.random.default_rng(1)
    folder = write_table(space, {f"{number}.png": random.normal(size=30).tolist() for number in range(20)})
    result = divide(cluster_method="hdbscan")
    assert (result.summary["num_clusters"], result.summary["num_alone"], result.summary["silhouette"]) == (0, 20, None)
    assert "hdbscan finds no cluster" in heard.lines[0]
    assert result.verdicts[0].startswith("There are no clusters")
    assert clusters_of(folder).keys() == {"-1"}
    assert "In no cluster: 20 images" in (folder / "clusters" / "report.html").read_text(encoding="utf-8")


def test_an_extraction_that_is_not_finished_is_refused(space: Workspace, divide: Divide) -> None:
    folder = write_table(space, blobs())
    (folder / "manifest.json").unlink()
    with pytest.raises(ExtractionError, match="is not finished"):
        divide()


def test_components_of_equal_rows_are_none_and_few_rows_have_few() -> None:
    assert learn_components(np.ones((4, 3), np.float32), 0) is None
    found = learn_components(np.eye(4, 100, dtype=np.float32), 0)
    assert found is not None
    assert found.of(np.eye(4, 100, dtype=np.float32)).shape == (4, 4)


# ---------------------------------------------------------------- other encoders


@pytest.fixture(scope="module")
def extracted(tmp_path_factory: pytest.TempPathFactory, tiny: Tiny, small_model: None) -> Workspace:
    """Images of three kinds in folders, a model and an extraction of them."""
    space = Workspace(tmp_path_factory.mktemp("extracted"))
    random = np.random.default_rng(0)
    for folder, colour in (("dark", 40), ("light", 200), ("stripes", 120)):
        (space.images / folder).mkdir(parents=True)
        for number in range(5):
            pixels = random.integers(0, 40, (64, 64, 3)) + colour
            pixels[::8] = 0 if folder == "stripes" else pixels[::8]
            Image.fromarray(pixels.astype(np.uint8)).save(space.images / folder / f"{number}.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fext.jobs.pretrain._draw_pictures", lambda run, state: None)
        model = pretrain(space, tiny(**GREY), space.images, "model", SilentReporter()).folder
    extract(space, tiny(**GREY), model, space.images, "table", SilentReporter())
    return space


def test_references_stand_beside_the_model_in_one_table(extracted: Workspace, tiny: Tiny) -> None:
    result = cluster(extracted, tiny(), extracted.inference / "table", SilentReporter(), 3, True)
    compared = result.summary["references"]
    assert set(compared["encoders"]) == {"model", "untrained", "linear_map", "pixels"}
    assert (compared["num_images"], compared["num_seeds"]) == (15, 5)
    for judged in compared["encoders"].values():
        assert 0 <= judged["nmi"]["least"] <= judged["nmi"]["mean"] <= judged["nmi"]["greatest"] <= 1 + 1e-9
        assert judged["num_clusters"]["mean"] == 3
    page = (result.folder / "report.html").read_text(encoding="utf-8")
    for shown in ("Does the model help?", "before training", "linear map", "pixels"):
        assert shown in page


def test_references_need_the_model_and_nothing_else_does(space: Workspace, divide: Divide) -> None:
    write_table(space, blobs())
    assert divide(3).summary["references"] is None
    with pytest.raises(CheckpointError, match="its checkpoint model is gone"):
        divide(3, True)


def test_references_need_the_images(space: Workspace, extracted: Workspace, tiny: Tiny, tmp_path: Path) -> None:
    home = Workspace(Path(shutil.copytree(extracted.root, tmp_path / "copy")))
    manifest = home.inference / "table" / "manifest.json"
    text = json.loads(manifest.read_text(encoding="utf-8"))
    manifest.write_text(json.dumps(text | {"source": str(home.images)}), encoding="utf-8")
    shutil.rmtree(home.images)
    with pytest.raises(FextError):
        cluster(home, tiny(), home.inference / "table", SilentReporter(), 3, True)


def test_the_nmi_without_some_images_is_that_of_the_others() -> None:
    random = np.random.default_rng(0)
    labels, clusters, blocks = (random.integers(low, 5, 60) for low in (0, -1, 0))
    expected = [agreement(labels[blocks != block], clusters[blocks != block]).nmi for block in range(5)]
    assert nmi_without_each(labels, clusters, blocks) == pytest.approx(expected)
    one = np.zeros(4, np.int32)
    assert nmi_without_each(one, one, np.arange(4)).tolist() == [1.0] * 4


def test_what_is_said_of_clusters_begins_with_whether_training_helped(extracted: Workspace, tiny: Tiny) -> None:
    folder = extracted.inference / "table"
    verdict = cluster(extracted, tiny(), folder, SilentReporter(), 2, True)
    assert verdict.summary["references"]["verdict"]["sentences"] == list(verdict.verdicts[:2])
    assert set(verdict.summary["references"]["verdict"]["model_minus"]) == {"untrained", "linear_map", "pixels"}
    assert NO_REFERENCES in cluster(extracted, tiny(), folder, SilentReporter(), 2).verdicts


def test_without_labels_clusters_are_not_judged() -> None:
    summary = {"sizes": [3], "num_alone": 0, "silhouette_by_count": {}, "labels": None, "references": {"num_seeds": 5}}
    assert verdicts(summary)[0].endswith("cannot be told without labels.")


# ---------------------------------------------------------------- the command and the entry of the menu


@pytest.fixture
def home(space: Workspace) -> Workspace:
    write_configurations(space.root, num_processors=1)
    write_table(space, blobs(per_blob=4))
    return space


@pytest.mark.usefixtures("wide")
def test_the_command_clusters_the_only_extraction_there_is(home: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(home.root, ["explore", "clusters", "--count", "3"]) == 0
    shown = capsys.readouterr().out.replace("\\", "/")
    assert "3; 4 to 4 images in each" in shown
    assert "inference/table/clusters/report.html" in shown
    assert main(home.root, ["explore", "clusters", "table", "--count", "99"]) == 1
    assert "99 clusters cannot be made of 12 images" in capsys.readouterr().out


def test_the_menu_asks_how_many_clusters(home: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entry, "ask", lambda question: " 4 ")
    monkeypatch.setattr(entry, "wants_references", lambda: False)
    screen = Screen(make_console(), home)
    entry.from_menu(screen)
    summary = files.read_json(home.inference / "table" / "clusters" / "summary.json")
    assert summary["num_clusters"] == 4
    assert summary["references"] is None
    assert [entry._is_count(text) for text in ("", "2", "12 ")] == [True] * 3
    assert all(entry._is_count(text) is not True for text in ("1", "many", "-3"))
