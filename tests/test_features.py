"""Features to explore: the rows of an extraction, and what other encoders make of the same images."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import write_images
from torch.nn.functional import adaptive_avg_pool2d

from fext.data.images import load_image
from fext.errors import CheckpointError, ExtractionError, SourceError
from fext.jobs.extract import extract
from fext.jobs.features import LINEAR_MAP, PIXELS, UNTRAINED, averaged, open_features, open_references
from fext.jobs.pretrain import pretrain
from fext.model.autoencoder import build_autoencoder
from fext.model.linear_map import LinearMap
from fext.model.stages import StagedEncoder
from fext.reporting import SilentReporter
from fext.settings import Settings
from fext.store import files
from fext.store.checkpoints import load_checkpoint
from fext.store.workspace import Workspace

Tiny = Callable[..., Settings]
NUM_CERTAIN = 20
GREY = (64, 64, 1)  # a linear map of them is found in a third of the time
pytestmark = pytest.mark.usefixtures("small_model", "no_pictures")


class Heard(SilentReporter):
    """Remembers warnings."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warning(self, text: str) -> None:
        self.warnings.append(text)


@pytest.fixture
def extraction(workspace: Workspace, tiny: Tiny) -> Path:
    """Of a dozen images, with 2x2 positions, of a model of one epoch."""
    folder = pretrain(workspace, tiny(picture_shape=GREY), workspace.images, "model", SilentReporter()).folder
    settings = tiny(feature_grid=2, feature_formats="npy", inference_batch_size=4)
    return extract(workspace, settings, folder, None, "table", SilentReporter()).folder


def images_of(workspace: Workspace, names: list[str]) -> torch.Tensor:
    """The named images as a model sees them."""
    preprocessing = load_checkpoint(workspace.checkpoints / "model").preprocessing
    return torch.stack(
        [torch.from_numpy(load_image(workspace.images / name, preprocessing)).permute(2, 0, 1) for name in names]
    )


def test_rows_are_those_of_the_table_averaged_to_the_grid(extraction: Path) -> None:
    table = np.load(extraction / "features.npy")
    with open_features(extraction, 2, SilentReporter()) as features:
        np.testing.assert_array_equal(features.rows, table)
        assert list(features.images) == [f"image_{number:03}.png" for number in range(12)]
    with open_features(extraction, 1, SilentReporter()) as features:
        np.testing.assert_allclose(features.rows, table.reshape(12, 4, -1).mean(axis=1), rtol=1e-5, atol=1e-6)
    with open_features(extraction, 8, SilentReporter()) as features:
        assert features.grid == 2


def test_positions_are_averaged_with_their_neighbours() -> None:
    row = np.arange(16 * 3, dtype=np.float32)
    expected = row.reshape(2, 2, 2, 2, 3).mean(axis=(1, 3)).ravel()
    np.testing.assert_array_equal(averaged(row, 4, 2), expected)


def test_a_damaged_row_is_left_out_and_said(extraction: Path) -> None:
    damaged = bytearray((extraction / "features.npy").read_bytes())
    damaged[-1] ^= 1
    (extraction / "features.npy").write_bytes(damaged)
    heard = Heard()
    with open_features(extraction, 2, heard) as features:
        assert len(features.rows) == len(features.images) == 11
    assert heard.warnings == ["1 row of table is damaged and left out: verify it, or extract again"]


def test_an_extraction_that_is_not_finished_is_refused(extraction: Path) -> None:
    (extraction / "manifest.json").rename(extraction / "other.json")
    with pytest.raises(ExtractionError, match="is not finished"), open_features(extraction, 2, SilentReporter()):
        pass


def test_references_are_what_the_other_encoders_make_of_the_images(
    workspace: Workspace, tiny: Tiny, extraction: Path
) -> None:
    checkpoint = load_checkpoint(workspace.checkpoints / "model")
    with open_features(extraction, 2, SilentReporter()) as features:
        images = images_of(workspace, list(features.images))
        with open_references(workspace, tiny(), features, SilentReporter()) as references:
            assert references.places.tolist() == list(range(12))
            assert set(references.rows) == {UNTRAINED, LINEAR_MAP, PIXELS}
            found = {name: torch.from_numpy(np.array(rows)) for name, rows in references.rows.items()}
    untrained = build_autoencoder(checkpoint.plan, checkpoint.settings.seed).eval()
    linear_map = LinearMap(checkpoint.plan.picture_shape, checkpoint.plan.latent_shape)
    for batch in images.split(8):
        linear_map.learn(batch)
    linear_map.finish()
    with torch.inference_mode():
        expected = {
            UNTRAINED: adaptive_avg_pool2d(untrained.encoder(images), 2),
            LINEAR_MAP: adaptive_avg_pool2d(linear_map.encode(images), 2)[:, :NUM_CERTAIN].abs(),
            PIXELS: adaptive_avg_pool2d(images, 32),
        }
    # A dozen images settle the first components alone, and of these not the signs.
    found[LINEAR_MAP] = found[LINEAR_MAP].unflatten(1, (4, -1))[:, :, :NUM_CERTAIN].flatten(1).abs()
    for name, maps in expected.items():
        torch.testing.assert_close(found[name], maps.permute(0, 2, 3, 1).flatten(1), rtol=1e-3, atol=1e-3)


def test_with_all_stages_the_untrained_model_gives_all_of_its_own(
    workspace: Workspace, tiny: Tiny, extraction: Path
) -> None:
    settings = tiny(feature_grid=1, feature_formats="npy", feature_stages="all")
    folder = extract(workspace, settings, workspace.checkpoints / "model", None, "all", SilentReporter()).folder
    checkpoint = load_checkpoint(workspace.checkpoints / "model")
    untrained = StagedEncoder(build_autoencoder(checkpoint.plan, checkpoint.settings.seed).eval())
    with (
        open_features(folder, 1, SilentReporter()) as features,
        open_references(workspace, tiny(), features, SilentReporter()) as references,
        torch.inference_mode(),
    ):
        maps = untrained(images_of(workspace, list(features.images)))
        expected = torch.cat([stage.mean(dim=(2, 3)) for stage in maps], dim=1)
        torch.testing.assert_close(torch.from_numpy(np.array(references.rows[UNTRAINED])), expected)
        assert references.rows[UNTRAINED].shape == features.rows.shape


def test_images_that_vanished_are_left_out_of_the_comparison_and_said(
    workspace: Workspace, tiny: Tiny, extraction: Path
) -> None:
    (workspace.images / "image_003.png").unlink()
    heard = Heard()
    with open_features(extraction, 2, heard) as features:
        assert len(features.rows) == 12
        with open_references(workspace, tiny(), features, heard) as references:
            assert references.places.tolist() == [place for place in range(12) if place != 3]
            assert all(len(rows) == 11 for rows in references.rows.values())
    assert heard.warnings == ["1 image cannot be read any more: the comparison is without it"]


def test_where_all_images_vanished_nothing_is_compared(workspace: Workspace, tiny: Tiny, extraction: Path) -> None:
    for path in workspace.images.iterdir():
        path.unlink()
    write_images(workspace.images / "others", 1)
    with (
        open_features(extraction, 2, SilentReporter()) as features,
        pytest.raises(SourceError),
        open_references(workspace, tiny(), features, SilentReporter()),
    ):
        pass


def test_without_its_model_nothing_is_compared(workspace: Workspace, tiny: Tiny, extraction: Path) -> None:
    files.remove_folder(workspace.checkpoints / "model")
    with (
        open_features(extraction, 2, SilentReporter()) as features,
        pytest.raises(CheckpointError, match="its checkpoint model is gone"),
        open_references(workspace, tiny(), features, SilentReporter()),
    ):
        pass
