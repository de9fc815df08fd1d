"""Exporting the encoder, and writing reconstructions as pictures."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pandas as pd
import pytest
import torch
from conftest import write_images
from PIL import Image
from safetensors import safe_open

from fext.data.images import load_image
from fext.errors import UsageError
from fext.jobs.export import export
from fext.jobs.pretrain import pretrain
from fext.jobs.reconstruct import reconstruct
from fext.reporting import SilentReporter
from fext.settings import Settings
from fext.store.checkpoints import load_checkpoint
from fext.store.workspace import Workspace

pytestmark = pytest.mark.usefixtures("small_model")
QUIET = SilentReporter()
Tiny = Callable[..., Settings]


@pytest.fixture(scope="module", params=[False, True], ids=["convolutions", "linear shortcut"])
def trained(
    tmp_path_factory: pytest.TempPathFactory, tiny: Tiny, small_model: None, request: pytest.FixtureRequest
) -> Workspace:
    """A workspace with a checkpoint 'model'; tests must not change it."""
    space = Workspace(tmp_path_factory.mktemp("trained"))
    write_images(space.images, 12)
    linear = {"linear_shortcut": True, "latent_channels": 16, "picture_shape": (64, 64, 1)}
    settings = tiny(**linear) if request.param else tiny()
    pretrain(space, settings, space.images, "model", QUIET)
    return space


def inputs(trained: Workspace, count: int) -> torch.Tensor:
    checkpoint = load_checkpoint(trained.checkpoints / "model")
    paths = sorted(trained.images.iterdir())[:count]
    arrays = [load_image(path, checkpoint.preprocessing).transpose(2, 0, 1) for path in paths]
    return torch.from_numpy(np.stack(arrays))


def test_the_onnx_encoder_gives_the_same_latent_in_onnx_runtime_for_any_batch(
    trained: Workspace, tmp_path: Path
) -> None:
    path = export(trained.checkpoints / "model", "onnx", tmp_path / "deep" / "encoder.onnx")
    onnx.checker.check_model(str(path))
    checkpoint = load_checkpoint(trained.checkpoints / "model")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for count in (1, 3, 5):
        images = inputs(trained, count)
        with torch.inference_mode():
            expected = checkpoint.model.encoder(images).numpy()
        latent = session.run(["latent"], {"images": images.numpy()})[0]
        # What float32 loses of a sum of thousands goes by the largest of its terms, and differs between processors.
        np.testing.assert_allclose(latent, expected, rtol=0, atol=3e-5 * np.abs(expected).max())
        one, other = latent.reshape(count, -1).astype(float), expected.reshape(count, -1).astype(float)
        cosines = (one * other).sum(axis=1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)
        assert cosines.min() > 1 - 1e-9
    metadata = session.get_modelmeta().custom_metadata_map
    assert metadata["sha256"] == checkpoint.sha256
    assert json.loads(metadata["preprocessing"])["height"] == 64


def test_the_safetensors_encoder_holds_the_encoders_weights_and_how_to_use_them(
    trained: Workspace, tmp_path: Path
) -> None:
    path = export(trained.checkpoints / "model", "safetensors", tmp_path / "encoder.safetensors")
    encoder = load_checkpoint(trained.checkpoints / "model").model.encoder.state_dict()
    with safe_open(path, "pt") as stored:
        assert set(stored.keys()) == set(encoder)
        assert all(torch.equal(stored.get_tensor(name), tensor) for name, tensor in encoder.items())
        assert json.loads(stored.metadata()["plan"])["architecture"] == "redux"


def test_an_existing_file_is_not_overwritten(trained: Workspace, tmp_path: Path) -> None:
    (tmp_path / "encoder.onnx").write_text("mine")
    with pytest.raises(UsageError, match="nothing is overwritten"):
        export(trained.checkpoints / "model", "onnx", tmp_path / "encoder.onnx")


def test_reconstructions_are_pictures_of_what_the_model_makes_of_each_image(
    trained: Workspace, tiny: Tiny, tmp_path: Path
) -> None:
    images = tmp_path / "images"
    write_images(images / "sub", 5)
    (images / "broken.png").write_bytes(b"no image")
    result = reconstruct(tiny(), trained.checkpoints / "model", images, tmp_path / "made", QUIET)
    assert (result.num_found, result.num_written, result.num_rejected) == (6, 5, 1)
    assert list(pd.read_csv(tmp_path / "made" / "rejected.csv")["image"]) == ["broken.png"]
    checkpoint = load_checkpoint(trained.checkpoints / "model")
    for path in (images / "sub").iterdir():
        image = torch.from_numpy(load_image(path, checkpoint.preprocessing)).permute(2, 0, 1)[None]
        with torch.inference_mode():
            expected = checkpoint.model(image)[0].permute(1, 2, 0).clamp(0, 1).numpy() * 255
        with Image.open(tmp_path / "made" / "sub" / f"{path.name}.png") as picture:
            assert np.abs(np.asarray(picture).reshape(expected.shape).astype(float) - expected).max() < 0.51
    with pytest.raises(UsageError, match="not an empty folder"):
        reconstruct(tiny(), trained.checkpoints / "model", images, tmp_path / "made", QUIET)


def test_a_listed_path_that_leads_out_of_the_folder_is_written_inside(
    trained: Workspace, tiny: Tiny, tmp_path: Path
) -> None:
    (tmp_path / "lists").mkdir()
    write_images(tmp_path / "pictures", 2)
    listing = tmp_path / "lists" / "list.txt"
    listing.write_text(f"../pictures/image_000.png\n{(tmp_path / 'pictures' / 'image_001.png').as_posix()}\n")
    output = tmp_path / "made"
    result = reconstruct(tiny(), trained.checkpoints / "model", listing, output, QUIET)
    assert result.num_written == len(list(output.rglob("*.png"))) == 2
    assert (output / "pictures" / "image_000.png.png").is_file()
