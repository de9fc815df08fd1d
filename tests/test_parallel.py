"""Two processes that train together do what one does with the whole batch."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import multiprocessing, nn
from torch.distributed import FileStore

from fext.compute.device import prepare_computation
from fext.compute.optimization import make_average, make_optimizer
from fext.compute.parallel import Agreement, compiled, in_parallel
from fext.compute.processes import Processes
from fext.compute.shared_normalization import SharedBatchNorm2d, share_normalization
from fext.compute.training import Totals, Trainer, train_epoch
from fext.data.dataset import Batch, FileRead, Shard
from fext.data.images import NO_FILE
from fext.errors import FextError, ReaderDiedError
from fext.model.autoencoder import build_autoencoder
from fext.model.disturbed import Disturbances, DisturbedAutoencoder
from fext.model.heads import build_heads
from fext.model.plans import Plan, Stage
from fext.model.winograd import Convolution
from fext.reporting import StopRequested
from fext.settings import Settings, change_settings

CPU = torch.device("cpu")
NUM_IMAGES, BATCH_SIZE = 11, 5  # the last batch has one image: fewer than there are processes


def values(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def normalize(norm: nn.Module, images: torch.Tensor, weights: torch.Tensor) -> dict[str, Any]:
    """What a normalization makes of images, and the gradient of a weighted sum of it."""
    images = images.clone().requires_grad_()
    normalized = norm(images)
    (normalized * weights).sum().backward()
    return {"normalized": normalized.detach(), "of_images": images.grad, "state": norm.state_dict()}


def shared_normalization(processes: Processes, dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    own = slice(0, 3) if processes.is_first else slice(3, 7)
    norm = SharedBatchNorm2d(nn.BatchNorm2d(4), processes)
    return normalize(norm, (100 + values(7, 4, 3, 3)[own]).to(dtype), values(7, 4, 3, 3, seed=1)[own].to(dtype))


def in_parts(settings: Settings) -> Settings:
    return change_settings(settings, gradient_accumulation=2)


def trained(processes: Processes, settings: Settings, normalization: bool = True) -> dict[str, Any]:
    """Weights and totals after an epoch, of which this process has its part."""
    plan = Plan("vgg16", (16, 16, 3), "plain", normalization, (Stage((4,)), Stage((8,))), 8)
    model = build_autoencoder(plan, seed=0).train()
    computation = prepare_computation(settings)
    heads = build_heads(plan, settings)
    forward = in_parallel(DisturbedAutoencoder(model, Disturbances(), heads), processes, CPU)
    optimizer = make_optimizer(nn.ModuleList([model, heads]), settings, computation)
    average = make_average(model, settings.ema_decay) if settings.ema_decay else None
    agreement = Agreement(processes, CPU)
    trainer = Trainer(forward, model, optimizer, average, settings, computation, computation.make_scaler(), agreement)
    totals = Totals()
    batches = [batch(processes, start) for start in range(0, NUM_IMAGES, BATCH_SIZE)]
    train_epoch(trainer, batches, totals, epoch=0, num_images=NUM_IMAGES, on_batch=lambda *_: None)
    kept = average.module if average is not None else model
    return {"weights": kept.state_dict(), "loss": totals.loss, "psnr": totals.psnr, "num_images": totals.num_images}


def batch(processes: Processes, start: int) -> Batch:
    keys = [(0, position) for position in range(start, min(start + BATCH_SIZE, NUM_IMAGES))]
    own = [position for _, position in Shard(processes.rank, processes.count).of(keys)]
    return Batch(values(NUM_IMAGES, 3, 16, 16)[own], [FileRead(position, NO_FILE) for position in own], [])


def settled(processes: Processes) -> list[str]:
    """How each process ends where the second cannot read an image, loses its readers, or is to stop."""
    good = Batch(values(1, 3, 4, 4), [FileRead(0, NO_FILE)], [])
    agreement = Agreement(processes, CPU)
    is_second = processes.rank == 1

    def batches_that(end: str) -> Iterator[Batch]:
        yield good
        if is_second and end == "lose readers":
            raise ReaderDiedError("gone")
        if is_second and end == "stop":
            agreement.ask_to_stop()
        yield Batch(good.images, [], good.files) if is_second and end == "reject" else good

    ends = []
    for end in ("reject", "lose readers", "stop"):
        seen = 0
        try:
            for _, num_computed in agreement.each(batches_that(end)):
                seen += num_computed
        except (FextError, StopRequested) as error:
            ends.append(f"{type(error).__name__} after {seen}")
    return ends


def work(rank: int, folder: str, settings: list[Settings]) -> None:
    torch.set_num_threads(1)
    processes = Processes(rank, 2, FileStore(f"{folder}/store", 2))
    with processes.sharing_tensors(CPU):
        results = {
            "normalization": shared_normalization(processes),
            "trained": [trained(processes, each) for each in settings],
            "in parts": trained(processes, in_parts(settings[0]), normalization=False),
            "views": trained(processes, in_parts(change_settings(settings[1], views_weight=1.0))),
            "in bfloat16": shared_normalization(processes, torch.bfloat16),
            "settled": settled(processes),
        }
    torch.save(results, f"{folder}/{rank}.pt")


@pytest.fixture(scope="module")
def several_settings(tiny: Callable[..., Settings]) -> list[Settings]:
    common = {"optimizer": "sgd", "learning_rate": 0.1, "batch_size": BATCH_SIZE, "views_weight": 0.0}
    return [tiny(**common), tiny(**common, gradient_clip=0.01, activity_l1=0.1, ema_decay=0.5)]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory, several_settings: list[Settings]) -> list[dict[str, Any]]:
    """What each of two processes came to."""
    folder = tmp_path_factory.mktemp("together")
    multiprocessing.spawn(work, (str(folder), several_settings), nprocs=2)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # torch's compiler looks there
def test_all_layers_are_compiled_between_the_normalizations_that_processes_share() -> None:
    """Each such normalization ends a piece, and by itself torch stops at eight pieces that are the same function."""
    widths = range(3, 16)
    layers = [(Convolution(width, width + 1), nn.BatchNorm2d(width + 1)) for width in widths]
    model = nn.Sequential(*(layer for pair in layers for layer in pair))
    share_normalization(model, Processes())
    pieces: list[torch.fx.GraphModule] = []

    def noting(piece: torch.fx.GraphModule, _: list[torch.Tensor]) -> Callable[..., Any]:
        pieces.append(piece)
        return piece.forward

    with torch._dynamo.config.patch(recompile_limit=torch._dynamo.config.recompile_limit):
        compiled(model, noting)(values(2, 3, 4, 4))
    assert len(pieces) == len(widths)


def test_batch_normalization_is_that_of_the_whole_batch(results: list[dict[str, Any]]) -> None:
    alone = normalize(nn.BatchNorm2d(4), 100 + values(7, 4, 3, 3), values(7, 4, 3, 3, seed=1))
    parts = [result["normalization"] for result in results]
    for name in ("normalized", "of_images"):
        assert torch.allclose(torch.cat([part[name] for part in parts]), alone[name], rtol=1e-4, atol=1e-4)
    for part in parts:
        for name, expected in alone["state"].items():
            assert torch.allclose(part["state"][name], expected, rtol=1e-5), name


def test_processes_that_tell_their_own_views_apart_train_one_model(results: list[dict[str, Any]]) -> None:
    one, other = (result["views"]["weights"] for result in results)
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert any(not torch.equal(one[name], weights) for name, weights in results[0]["trained"][1]["weights"].items())


@pytest.mark.parametrize("number", range(2))
def test_an_epoch_changes_the_weights_as_one_process_does(
    results: list[dict[str, Any]], several_settings: list[Settings], number: int
) -> None:
    alone = trained(Processes(), several_settings[number])
    for result in results:
        together = result["trained"][number]
        assert together["num_images"] == alone["num_images"] == NUM_IMAGES
        assert together["loss"] == pytest.approx(alone["loss"], rel=1e-5)
        assert together["psnr"] == pytest.approx(alone["psnr"], rel=1e-5)
        for name, expected in alone["weights"].items():
            # A small batch that each has whole counts twice in the correction of the variance for small samples.
            tolerance = 0.01 if name.endswith("running_var") else 1e-5
            assert torch.allclose(together["weights"][name], expected, rtol=tolerance, atol=1e-5), name


def test_parts_of_a_batch_add_up_over_processes(
    results: list[dict[str, Any]], several_settings: list[Settings]
) -> None:
    alone = trained(Processes(), several_settings[0], normalization=False)
    for result in results:
        for name, expected in alone["weights"].items():
            assert torch.allclose(result["in parts"]["weights"][name], expected, rtol=1e-5, atol=1e-6), name


def test_batch_normalization_in_bfloat16_is_that_of_the_whole_batch(results: list[dict[str, Any]]) -> None:
    images, weights = (100 + values(7, 4, 3, 3)).bfloat16(), values(7, 4, 3, 3, seed=1).bfloat16()
    alone = normalize(nn.BatchNorm2d(4), images, weights)
    for name in ("normalized", "of_images"):
        together = torch.cat([result["in bfloat16"][name] for result in results]).float()
        assert torch.allclose(together, alone[name].float(), rtol=0.02, atol=0.02)


def test_both_processes_have_the_same_weights_to_the_bit(results: list[dict[str, Any]]) -> None:
    for one, other in zip(*(result["trained"] for result in results), strict=True):
        assert all(torch.equal(tensor, other["weights"][name]) for name, tensor in one["weights"].items())


def test_they_stop_together_where_one_cannot_go_on_or_is_asked_to_stop(results: list[dict[str, Any]]) -> None:
    first, second = (result["settled"] for result in results)
    assert first == ["ProcessGroupError after 2", "ProcessGroupError after 2", "StopRequested after 2"]
    assert second == ["UnreadableImageError after 2", "ReaderDiedError after 2", "StopRequested after 2"]
