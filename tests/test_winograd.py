"""Wide 3x3 convolutions by Winograd's method: what a direct convolution gives, where a processor is quicker so."""

from collections.abc import Callable

import pytest
import torch
from conftest import small_plan

from fext.compute.device import Computation, prepare_computation
from fext.model.autoencoder import build_autoencoder
from fext.model.winograd import Convolution, convolutions
from fext.settings import Settings

Tiny = Callable[..., Settings]
WIDE = (256, 256)


def make_convolution(channels: int, width: int, *, by_winograd: bool) -> Convolution:
    torch.manual_seed(2)
    convolution = Convolution(channels, width).to(memory_format=torch.channels_last)
    torch.nn.init.normal_(convolution.bias)
    convolution.by_winograd = by_winograd
    return convolution


def pictures(count: int, channels: int, rows: int = 12, columns: int = 8) -> torch.Tensor:
    torch.manual_seed(3)
    return torch.randn(count, channels, rows, columns).relu()


def convolved(convolution: Convolution, images: torch.Tensor, *, mixed: bool = True) -> torch.Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=mixed):
        made: torch.Tensor = convolution(images)
    return made


def distance(found: torch.Tensor, right: torch.Tensor) -> float:
    return float((found.float() - right).norm() / right.norm())


@pytest.mark.parametrize(("channels", "width"), [(256, 256), (128, 512), (512, 128)])
@pytest.mark.parametrize(("count", "rows", "columns"), [(3, 12, 8), (1, 2, 2)])
def test_results_and_gradients_are_those_of_a_direct_convolution_in_float32(
    channels: int, width: int, count: int, rows: int, columns: int
) -> None:
    found = {}
    for mixed in (True, False):
        convolution = make_convolution(channels, width, by_winograd=mixed)
        images = pictures(count, channels, rows, columns).bfloat16().float().requires_grad_()
        made = convolved(convolution, images, mixed=mixed)
        torch.manual_seed(4)
        made.backward(torch.randn(made.shape).to(made.dtype))
        found[mixed] = (made.detach(), images.grad, convolution.weight.grad, convolution.bias.grad)
    assert found[True][0].dtype == torch.bfloat16
    assert found[True][2].is_contiguous(memory_format=torch.channels_last)
    for by_winograd, direct in zip(found[True], found[False], strict=True):
        assert by_winograd.shape == direct.shape
        assert 0 < distance(by_winograd, direct) < 0.01


def test_an_image_gives_the_same_bytes_wherever_it_stands_in_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fext.model.winograd._VALUES_AT_A_TIME", 2 * 24 * 256)  # two pictures at a time
    convolution = make_convolution(*WIDE, by_winograd=True)
    images = pictures(6, 256)
    straight = convolved(convolution, images)
    assert torch.equal(convolved(convolution, images.flip(0)).flip(0), straight)
    black = torch.zeros_like(images)
    black[3] = images[0]
    assert torch.equal(convolved(convolution, black)[3], straight[0])


@pytest.mark.parametrize(
    ("channels", "width", "shape", "mixed"),
    [(64, 64, (12, 8), True), (256, 256, (7, 8), True), (256, 256, (12, 8), False)],
)
def test_narrow_ones_odd_pictures_and_float32_are_convolved_directly(
    channels: int, width: int, shape: tuple[int, int], mixed: bool
) -> None:
    images = pictures(2, channels, *shape)
    either = [
        convolved(make_convolution(channels, width, by_winograd=by_winograd), images, mixed=mixed)
        for by_winograd in (True, False)
    ]
    assert torch.equal(*either)


@pytest.mark.parametrize(
    ("facts", "architecture", "mixed", "expected"),
    [
        ({"avx512_bf16": True, "cpu_name": "AMD EPYC"}, "vgg16", True, True),
        ({"avx512_bf16": True, "cpu_name": "AMD EPYC"}, "vgg16", False, False),
        ({"avx512_bf16": True, "cpu_name": "AMD EPYC"}, "redux", True, False),
        ({"avx512_bf16": True, "amx_bf16": True, "cpu_name": "Intel Xeon"}, "vgg16", True, False),
        ({"avx512_bf16": True, "cpu_name": "Intel Xeon"}, "vgg16", True, False),
        ({"avx2": True, "cpu_name": "AMD EPYC"}, "vgg16", True, False),
    ],
)
def test_it_is_used_by_the_instructions_that_a_processor_has(
    tiny: Tiny,
    monkeypatch: pytest.MonkeyPatch,
    facts: dict[str, object],
    architecture: str,
    mixed: bool,
    expected: bool,
) -> None:
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: facts)
    computation = prepare_computation(tiny(use_mixed_precision=mixed, training_device="CPU"))
    model = build_autoencoder(small_plan(architecture, (64, 64, 3)), seed=1)
    computation.place(model)
    assert computation.filters_by_winograd(model) is expected
    assert {convolution.by_winograd for convolution in convolutions(model)} <= {expected}


def test_a_model_trains_by_it_as_by_direct_convolutions(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same loss and gradient within what bfloat16 leaves of them."""
    images = pictures(4, 3, 64, 64).clamp(0, 1)
    found = {}
    for facts in ({"avx512_bf16": True, "cpu_name": "AMD"}, {"cpu_name": "AMD"}):
        monkeypatch.setattr("torch.cpu.get_capabilities", lambda facts=facts: facts)
        computation = Computation(torch.device("cpu"), "bfloat16", 1)
        model = build_autoencoder(small_plan("vgg16", (64, 64, 3)), seed=1)
        computation.place(model)
        with computation.autocast():
            loss = (model(images).float() - images).square().mean()
        loss.backward()
        gradient = torch.cat([weight.grad.flatten() for weight in model.parameters()])
        found[computation.filters_by_winograd(model)] = (loss.item(), gradient)
    assert found[True][0] == pytest.approx(found[False][0], rel=0.01)
    assert 0 < distance(found[True][1], found[False][1]) < 0.1
