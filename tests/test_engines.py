"""Engines: what runs a model gives the same rows whatever stands beside an image, and the right ones."""

import importlib.util
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from conftest import small_plan

from fext.compute.device import Computation, prepare_computation
from fext.compute.engines import (
    Engine,
    EngineName,
    Rows,
    RowShape,
    choose_engine,
    encode_all,
    feature_rows,
    fold_normalization,
    images_together,
    make_engine,
)
from fext.data.dataset import Batch, FileRead
from fext.data.images import NO_FILE
from fext.errors import DeviceError
from fext.model.autoencoder import Autoencoder, build_autoencoder
from fext.model.plans import Plan, Stage
from fext.model.stages import StagedEncoder
from fext.settings import Settings

Tiny = Callable[..., Settings]
has_openvino = importlib.util.find_spec("openvino") is not None
ENGINES = [
    "torch",
    pytest.param("openvino", marks=pytest.mark.skipif(not has_openvino, reason="OpenVINO is an extra")),
]
WHOLE = RowShape(None, False)
PLANS = {
    "residual": small_plan("redux", (64, 64, 3)),
    "patch": Plan("redux", (64, 64, 3), "patch", True, (Stage((48, 48), stride=32, pooling="no"),), 40, 96),
}
for_each_plan = pytest.mark.parametrize("plan", PLANS)


def make_model(plan: Plan) -> Autoencoder:
    """A model with statistics as after training, so that normalization does something, and no layer at zero."""
    model = build_autoencoder(plan, seed=1)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.Conv2d) and not module.weight.any():
                module.weight.normal_(std=0.05)
        for _ in range(3):
            model(torch.rand(8, 3, 64, 64))
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5)
                module.bias.uniform_(-0.5, 0.5)
    return model.eval()


def batch_of(images: torch.Tensor) -> Batch:
    return Batch(images, [FileRead(number, NO_FILE) for number in range(len(images))], [])


def engine_of(settings: Settings, name: EngineName, plan: str = "residual", shape: RowShape = WHOLE) -> Engine:
    """An engine with a model of its own; skips the test where the processor does not compute so."""
    torch.manual_seed(0)
    try:
        return make_engine(name, make_model(PLANS[plan]), prepare_computation(settings), 4, shape)
    except DeviceError as error:
        pytest.skip(str(error))


def rows_of(
    images: list[torch.Tensor], settings: Settings, name: EngineName, plan: str = "residual", shape: RowShape = WHOLE
) -> Rows:
    """The rows of batches of images, with a model of its own."""
    engine = engine_of(settings, name, plan, shape)
    return np.concatenate([rows for _, rows in encode_all(engine, map(batch_of, images))])


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.rand(8, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@for_each_plan
@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("name", ENGINES)
def test_a_row_has_the_same_bits_whatever_stands_beside_it_in_the_batch(
    tiny: Tiny, images: torch.Tensor, name: EngineName, mixed: bool, plan: str
) -> None:
    engine = engine_of(tiny(use_mixed_precision=mixed), name, plan)
    together, alone, shuffled = (
        np.concatenate([rows for _, rows in encode_all(engine, map(batch_of, batches))])
        for batches in (images.split(8), images.split(1), images.flip(0).split(3))
    )
    assert together.tobytes() == alone.tobytes() == shuffled[::-1].tobytes()


@for_each_plan
@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("name", ENGINES)
def test_a_row_has_the_same_bits_whatever_the_number_of_threads(
    tiny: Tiny, images: torch.Tensor, name: EngineName, mixed: bool, plan: str
) -> None:
    before = torch.get_num_threads()
    try:
        one, three = (
            rows_of(list(images.split(2)), tiny(num_threads=count, use_mixed_precision=mixed), name, plan)
            for count in (1, 3)
        )
    finally:
        torch.set_num_threads(before)
    assert one.tobytes() == three.tobytes()


@pytest.mark.parametrize("name", ENGINES)
def test_one_thread_alone_computes_an_image(
    tiny: Tiny, images: torch.Tensor, name: EngineName, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several divide a sum in ways that differ from processor to processor: not here, it may be, but elsewhere."""
    seen: list[int] = []

    def noted(*arguments: Any) -> torch.Tensor:
        seen.append(torch.get_num_threads())
        return feature_rows(*arguments)

    monkeypatch.setattr("fext.compute.engines.feature_rows", noted)
    before = torch.get_num_threads()
    try:
        rows_of(list(images.split(8)), tiny(num_threads=3), name)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    assert seen == [1, 1]


@pytest.mark.skipif(not has_openvino, reason="OpenVINO is an extra")
def test_openvino_has_a_stream_for_each_thread(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    import openvino

    compile_model, asked = openvino.Core.compile_model, list[dict[str, Any]]()

    def noted(core: Any, graph: Any, device: str, properties: dict[str, Any]) -> Any:
        asked.append(properties)
        return compile_model(core, graph, device, properties)

    monkeypatch.setattr("openvino.Core.compile_model", noted)
    engine_of(tiny(num_threads=1), "openvino")
    assert (asked[0]["NUM_STREAMS"], asked[0]["INFERENCE_NUM_THREADS"]) == (1, 1)


@pytest.mark.skipif(not has_openvino, reason="OpenVINO is an extra")
@pytest.mark.parametrize("how", ["refuses", "takes another precision"])
def test_a_precision_that_openvino_does_not_compute_in_is_said(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    import openvino

    compile_model = openvino.Core.compile_model

    def other(core: Any, graph: Any, device: str, properties: dict[str, Any]) -> Any:
        if how == "refuses":
            raise RuntimeError("could not create a primitive descriptor")
        return compile_model(core, graph, device, properties | {"INFERENCE_PRECISION_HINT": "f32"})

    monkeypatch.setattr("openvino.Core.compile_model", other)
    model = make_model(PLANS["residual"])
    with pytest.raises(DeviceError, match="does not compute this model in bfloat16"):
        make_engine("openvino", model, prepare_computation(tiny(use_mixed_precision=True)), 4, WHOLE)


def test_how_many_images_are_computed_together_follows_from_their_size_on_a_cpu() -> None:
    cpu, gpu = (Computation(torch.device(name), "float32", 1) for name in ("cpu", "cuda:0"))
    sizes = [(32, 32, 3), (96, 96, 1), (256, 256, 3), (1024, 512, 3)]
    assert [images_together(size, cpu, 8) for size in sizes] == [64, 28, 4, 1]
    assert [images_together(size, gpu, 8) for size in sizes] == [8, 8, 8, 8]


@for_each_plan
@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("name", ENGINES)
def test_the_rows_of_an_engine_are_those_of_the_encoder(
    tiny: Tiny, images: torch.Tensor, name: EngineName, mixed: bool, plan: str
) -> None:
    torch.manual_seed(0)
    with torch.inference_mode():
        latent = make_model(PLANS[plan]).encoder(images)
    expected = latent.permute(0, 2, 3, 1).flatten(1).double()
    rows = torch.from_numpy(rows_of(list(images.split(4)), tiny(use_mixed_precision=mixed), name, plan)).double()
    assert torch.nn.functional.cosine_similarity(rows, expected).min() > (0.999 if mixed else 0.9999999)


@for_each_plan
@pytest.mark.parametrize("name", ENGINES)
def test_an_engine_gives_the_error_of_the_reconstruction_behind_the_features(
    tiny: Tiny, images: torch.Tensor, name: EngineName, plan: str
) -> None:
    shape = RowShape(1, True)
    rows = rows_of([images[:3]], tiny(), name, plan, shape)
    torch.manual_seed(0)
    with torch.inference_mode():
        made = make_model(PLANS[plan])(images[:3]).clamp(0, 1)
    expected = ((made - images[:3]) ** 2).mean(dim=(1, 2, 3))
    assert rows.shape == (3, PLANS[plan].latent_channels + 1)
    np.testing.assert_allclose(rows[:, -1], expected, rtol=1e-4)


@for_each_plan
@pytest.mark.parametrize("name", ENGINES)
def test_an_engine_gives_every_stage_of_the_encoder_and_the_latent_last(
    tiny: Tiny, images: torch.Tensor, name: EngineName, plan: str
) -> None:
    rows = rows_of([images[:3]], tiny(), name, plan, RowShape(2, True, all_stages=True))
    torch.manual_seed(0)
    with torch.inference_mode():
        maps = StagedEncoder(make_model(PLANS[plan]))(images[:3])
    averaged = [torch.nn.functional.adaptive_avg_pool2d(stage, 2).permute(0, 2, 3, 1) for stage in maps]
    assert len(maps) == {"residual": 5, "patch": 2}[plan]
    np.testing.assert_allclose(rows[:, :-1], torch.cat(averaged, dim=3).flatten(1), rtol=1e-3, atol=1e-4)


def test_results_come_in_order_however_many_batches_are_under_way(tiny: Tiny, images: torch.Tensor) -> None:
    class Slow:
        num_under_way = 3

        def __init__(self) -> None:
            self.started: list[float] = []

        def start(self, images: torch.Tensor) -> Callable[[], Rows]:
            value = float(images[0, 0, 0, 0])
            self.started.append(value)
            return lambda: np.full((len(images), 1), value, dtype=np.float32)

    engine = Slow()
    rejected = Batch(torch.empty(0), [], [FileRead(7, NO_FILE, reason="no")])
    batches = [*map(batch_of, images.split(1)), rejected]
    results = list(encode_all(engine, batches))
    assert [batch for batch, _ in results] == batches
    assert [float(rows[0, 0]) for _, rows in results[:-1]] == engine.started
    assert len(results[-1][1]) == 0


def test_features_are_flattened_in_row_column_channel_order() -> None:
    latent = torch.arange(2 * 3 * 4 * 5, dtype=torch.float32).reshape(2, 3, 4, 5)
    flat = feature_rows(RowShape(None, False), [latent], torch.empty(0), None)
    for image, row, column, channel in [(0, 0, 0, 0), (1, 3, 4, 2), (0, 2, 1, 1)]:
        assert flat[image, (row * 5 + column) * 3 + channel] == latent[image, channel, row, column]


def test_a_grid_of_features_is_the_average_of_the_latent() -> None:
    latent = torch.rand(2, 3, 4, 4)
    flat = feature_rows(RowShape(2, False), [latent], torch.empty(0), None)
    expected = latent.reshape(2, 3, 2, 2, 2, 2).mean(dim=(3, 5)).permute(0, 2, 3, 1).flatten(1)
    torch.testing.assert_close(flat, expected)


@pytest.mark.parametrize("architecture", ["redux", "vgg16_bn"])
def test_folding_normalization_changes_nothing_but_rounding(architecture: str, images: torch.Tensor) -> None:
    model = make_model(small_plan(architecture, (64, 64, 3)))
    with torch.inference_mode():
        before = model.encoder(images[:2])
        fold_normalization(model.encoder)
        after = model.encoder(images[:2])
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-5)
    follows = [isinstance(layer, torch.nn.BatchNorm2d) for layer in model.encoder]
    assert not any(follows)


def test_auto_takes_what_is_installed_and_what_is_missing_is_refused(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    cpu, gpu = (Computation(torch.device(name), "float32", 1) for name in ("cpu", "cuda:0"))
    model = build_autoencoder(small_plan("redux", (64, 64, 3)), seed=1)
    assert choose_engine(tiny(inference_engine="torch"), cpu, model) == "torch"
    monkeypatch.setattr("fext.compute.engines.importlib.util.find_spec", lambda _: None)
    assert choose_engine(tiny(inference_engine="auto"), cpu, model) == "torch"
    with pytest.raises(DeviceError, match=r"requirements-openvino\.txt"):
        choose_engine(tiny(inference_engine="openvino"), cpu, model)
    monkeypatch.setattr("fext.compute.engines.importlib.util.find_spec", lambda _: object())
    assert choose_engine(tiny(inference_engine="auto"), cpu, model) == "openvino"
    assert choose_engine(tiny(inference_engine="auto"), gpu, model) == "torch"
    with pytest.raises(DeviceError, match="runs on the CPU here, not on cuda"):
        choose_engine(tiny(inference_engine="openvino"), gpu, model)


def test_auto_takes_torch_where_it_is_quicker_by_winograds_method(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = {"avx512_bf16": True, "cpu_name": "AMD EPYC"}
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: facts)
    monkeypatch.setattr("fext.compute.engines.importlib.util.find_spec", lambda _: object())
    cpu = Computation(torch.device("cpu"), "bfloat16", 1)
    found = [
        choose_engine(tiny(inference_engine=engine), cpu, build_autoencoder(small_plan(name, (64, 64, 3)), seed=1))
        for engine, name in (("auto", "vgg16"), ("auto", "redux"), ("openvino", "vgg16"))
    ]
    assert found == ["torch", "openvino", "openvino"]
