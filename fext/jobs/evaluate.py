"""Evaluation: how well a checkpoint reconstructs its own train and test images, beside two neutral yardsticks."""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

from fext.compute.device import Computation, prepare_computation
from fext.compute.inference import reconstruct
from fext.data.dataset import Batch, ImageStream
from fext.data.names import Names, name_to_bytes
from fext.data.readers import num_usable_cores
from fext.data.source import ImageSource, find_images
from fext.errors import SourceError
from fext.jobs.choosing import refuse_vanished
from fext.jobs.kept_channels import score_kept_channels
from fext.jobs.linear import learn_linear_map
from fext.jobs.pictures import reconstruction_pairs
from fext.model.linear_map import LinearMap
from fext.model.scores import Scores, reconstruction_scores
from fext.pictures.figures import kept_channels_figure, pairs_figure, scores_figure
from fext.reporting import Reporter
from fext.settings import Settings
from fext.store import files
from fext.store.checkpoints import Checkpoint, load_checkpoint, record_scores
from fext.store.workspace import Workspace

_NUM_SHOWN = 6
_NUM_WORST = 5
_METHODS = ("model", "linear_map", "mean_image")


@dataclass(frozen=True)
class ImageScores:
    """One image, its subset (train, test or new), and its scores by method."""

    image: str
    subset: str
    scores: Mapping[str, Scores]


@dataclass(frozen=True)
class EvaluationResult:
    """What an evaluation found: summary[subset][method][score] holds mean, spread, min and max."""

    name: str
    folder: Path
    scores_file: Path
    summary: Mapping[str, Any]
    num_images: int
    num_rejected: int
    seconds: float
    images_per_second: float


@dataclass(frozen=True)
class _Evaluation:
    """The parts of one evaluation."""

    checkpoint: Checkpoint
    source: ImageSource
    subsets: Mapping[str, str]  # image name -> subset
    settings: Settings
    computation: Computation
    reporter: Reporter

    def stream(self, names: Sequence[str]) -> ImageStream:
        return ImageStream(
            self.source.root,
            names,
            self.checkpoint.preprocessing,
            batch_size=self.settings.inference_batch_size,
            num_processors=self.computation.num_processors,
            pin_memory=self.computation.device.type == "cuda",
        )


def evaluate(
    workspace: Workspace, settings: Settings, folder: Path, images: Path | None, reporter: Reporter
) -> EvaluationResult:
    """Score every train and test image of a checkpoint and write evaluation/ and a row of scores.csv.

    With `images`, the images of that folder or list: those named in the split count as train and test, others as new.
    Raises CheckpointError, SourceError and DeviceError.
    """
    started = time.perf_counter()
    computation = prepare_computation(settings)
    checkpoint = load_checkpoint(folder)
    computation.place(checkpoint.model)
    source, subsets = _images_to_score(checkpoint, images)
    evaluation = _Evaluation(checkpoint, source, subsets, settings, computation, reporter)
    reporter.message(f"evaluating {checkpoint.name} on {len(subsets)} images, {computation.describe()}")
    linear_map = _learn_linear_map(evaluation)
    rows, rejected, rate = _score_all(evaluation, linear_map)
    if not rows:
        raise SourceError(f"none of the {len(subsets)} images in {source.location} can be read: {rejected[0][1]}")
    summary = _summary(evaluation, rows, rejected)
    if checkpoint.settings.ordered_latent:
        summary["kept_channels"] = _score_kept_channels(evaluation)
    _write(evaluation, rows, summary)
    scores_file = record_scores(workspace.checkpoints, _scores_row(checkpoint, summary))
    return EvaluationResult(
        name=checkpoint.name,
        folder=folder / "evaluation",
        scores_file=scores_file,
        summary=summary,
        num_images=len(rows),
        num_rejected=len(rejected),
        seconds=time.perf_counter() - started,
        images_per_second=rate,
    )


def _images_to_score(checkpoint: Checkpoint, images: Path | None) -> tuple[ImageSource, dict[str, str]]:
    split = checkpoint.split()
    known = dict.fromkeys(split.train, "train") | dict.fromkeys(split.test, "test")
    if images is not None:
        source = find_images(images)
        if not source.names:
            raise SourceError(f"{source.describe_empty()}: name a folder of images")
        return source, {name: known.get(name, "new") for name in source.names}
    location = Path(checkpoint.source)
    if not location.exists():
        raise SourceError(f"the images of {checkpoint.name} are no longer in {location}: name their folder (--images)")
    root = location if location.is_dir() else location.parent
    names = Names.of(sorted(known, key=name_to_bytes))
    return ImageSource(location, root, names, 0), {name: known[name] for name in names}


def _learn_linear_map(evaluation: _Evaluation) -> LinearMap | None:
    train = [name for name, subset in evaluation.subsets.items() if subset == "train"]
    plan = evaluation.checkpoint.plan
    if not LinearMap.fits(plan.picture_shape, plan.latent_shape):
        evaluation.reporter.message("each latent position stands for too many pixels for a linear map to compare with")
        return None
    linear_map = LinearMap(plan.picture_shape, plan.latent_shape)
    if train:
        learn_linear_map(linear_map, evaluation.source, train, evaluation.stream(train), evaluation.reporter)
    if linear_map.num_images == 0:
        evaluation.reporter.message("no train images here: evaluating without the linear map and the mean image")
        return None
    linear_map.finish()
    return linear_map


def _score_all(
    evaluation: _Evaluation, linear_map: LinearMap | None
) -> tuple[list[ImageScores], list[tuple[str, str]], float]:
    names = list(evaluation.subsets)
    rows: list[ImageScores] = []
    rejected: list[tuple[str, str]] = []
    started = time.perf_counter()
    with evaluation.reporter.progress("evaluating", len(names)) as progress:
        for batch in evaluation.stream(names).epoch():
            refuse_vanished(evaluation.source, names, batch)
            for file in batch.rejected:
                rejected.append((names[file.position], file.reason))
                evaluation.reporter.warning(f"rejected: {names[file.position]} ({file.reason})")
            for position, scores in _score_batch(evaluation, linear_map, batch):
                rows.append(ImageScores(names[position], evaluation.subsets[names[position]], scores))
            progress.advance(batch.num_files)
    return rows, rejected, len(rows) / (time.perf_counter() - started)


def _score_batch(
    evaluation: _Evaluation, linear_map: LinearMap | None, batch: Batch
) -> Iterator[tuple[int, dict[str, Scores]]]:
    if not len(batch.images):
        return
    made = {
        "model": reconstruct(
            evaluation.checkpoint.model,
            batch.images,
            evaluation.computation,
            batch_size=evaluation.settings.inference_batch_size,
        )
    }
    if linear_map is not None:
        made["linear_map"] = linear_map.reconstruct(batch.images)
        made["mean_image"] = linear_map.mean_image().expand_as(batch.images)
    originals = batch.images.permute(0, 2, 3, 1).contiguous().numpy()
    arrays = {method: images.permute(0, 2, 3, 1).contiguous().numpy() for method, images in made.items()}

    def scores(number: int) -> dict[str, Scores]:
        return {method: reconstruction_scores(originals[number], images[number]) for method, images in arrays.items()}

    # SSIM takes longer than the model itself; its filters run outside Python's lock, so threads share the work.
    with ThreadPoolExecutor(num_usable_cores()) as pool:
        positions = [file.position for file in batch.files]
        yield from zip(positions, pool.map(scores, range(len(positions))), strict=True)


def _summary(
    evaluation: _Evaluation, rows: Sequence[ImageScores], rejected: Sequence[tuple[str, str]]
) -> dict[str, Any]:
    checkpoint = evaluation.checkpoint
    subsets: dict[str, dict[str, Any]] = {}
    for subset in ("train", "test", "new"):
        chosen = [row for row in rows if row.subset == subset]
        if chosen:
            subsets[subset] = {"num_images": len(chosen)} | {
                method: _statistics([row.scores[method] for row in chosen])
                for method in _METHODS
                if method in chosen[0].scores
            }
            worst = sorted(chosen, key=lambda row: row.scores["model"].psnr)[:_NUM_WORST]
            subsets[subset]["worst_images"] = [
                {"image": row.image, "psnr": row.scores["model"].psnr, "ssim": row.scores["model"].ssim}
                for row in worst
            ]
    return {
        "checkpoint": checkpoint.name,
        "sha256": checkpoint.sha256,
        "architecture": checkpoint.plan.architecture,
        "source": str(evaluation.source.location),
        "device": evaluation.computation.device.type,
        "precision": evaluation.computation.precision,
        "num_images": len(rows),
        "subsets": subsets,
        "rejected": [{"image": name, "reason": reason} for name, reason in rejected],
    }


def _statistics(scores: Sequence[Scores]) -> dict[str, dict[str, float]]:
    statistics = {}
    for name in Scores._fields:
        values = [getattr(score, name) for score in scores]
        statistics[name] = {"mean": fmean(values), "std": pstdev(values), "min": min(values), "max": max(values)}
    return statistics


def _write(
    evaluation: _Evaluation,
    rows: Sequence[ImageScores],
    summary: Mapping[str, Any],
) -> None:
    folder = evaluation.checkpoint.folder / "evaluation"
    header = ["image", "subset", *Scores._fields, "linear_map_psnr", "linear_map_ssim"]
    files.write_csv(folder / "per_image.csv", header, [_per_image_row(row) for row in rows])
    files.write_json(folder / "summary.json", summary)
    psnr = {
        subset: {
            method: [row.scores[method].psnr for row in rows if row.subset == subset]
            for method in _METHODS
            if method in summary["subsets"][subset]
        }
        for subset in summary["subsets"]
    }
    files.write_figure(folder / "psnr.png", scores_figure(psnr))
    for title, chosen in _best_typical_worst(rows).items():
        _write_pairs(evaluation, folder, title, chosen)


def _score_kept_channels(evaluation: _Evaluation) -> dict[int, float]:
    """PSNR of test images (else of all) by how many latent channels are kept; writes the table and the plot."""
    names = [name for name, subset in evaluation.subsets.items() if subset == "test"] or list(evaluation.subsets)
    psnr = score_kept_channels(
        evaluation.checkpoint.model,
        evaluation.source,
        names,
        evaluation.stream(names),
        evaluation.computation,
        evaluation.settings.inference_batch_size,
        evaluation.reporter,
    )
    folder = evaluation.checkpoint.folder / "evaluation"
    files.write_csv(folder / "kept_channels.csv", ("channels", "psnr"), list(psnr.items()))
    files.write_figure(folder / "kept_channels.png", kept_channels_figure(psnr))
    return psnr


def _per_image_row(row: ImageScores) -> list[object]:
    linear = row.scores.get("linear_map")
    return [row.image, row.subset, *row.scores["model"], linear.psnr if linear else "", linear.ssim if linear else ""]


def _best_typical_worst(rows: Sequence[ImageScores]) -> dict[str, list[str]]:
    """Names by PSNR, of test images where there are any, for these are what the model has not seen."""
    for subset in ("test", "new", "train"):
        chosen = sorted((row for row in rows if row.subset == subset), key=lambda row: row.scores["model"].psnr)
        if chosen:
            break
    names = [row.image for row in chosen]
    middle = max(0, math.ceil((len(names) - _NUM_SHOWN) / 2))
    return {
        "best": names[::-1][:_NUM_SHOWN],
        "typical": names[middle : middle + _NUM_SHOWN],
        "worst": names[:_NUM_SHOWN],
    }


def _write_pairs(evaluation: _Evaluation, folder: Path, title: str, names: Sequence[str]) -> None:
    checkpoint = evaluation.checkpoint
    pairs = reconstruction_pairs(
        checkpoint.model, evaluation.source, names, checkpoint.preprocessing, evaluation.computation
    )
    subset = evaluation.subsets[names[0]]
    heading = f"{checkpoint.name}: {title} {subset} images above their reconstructions"
    files.write_figure(folder / f"{title}.png", pairs_figure(heading, pairs))


def _scores_row(checkpoint: Checkpoint, summary: Mapping[str, Any]) -> dict[str, object]:
    row: dict[str, object] = {
        "checkpoint": checkpoint.name,
        "architecture": checkpoint.plan.architecture,
        "epochs": checkpoint.summary.get("epochs", ""),
        "best_epoch": checkpoint.summary.get("best_epoch", ""),
    }
    for subset in ("train", "test", "new"):
        found = summary["subsets"].get(subset, {})
        row[f"{subset}_images"] = found.get("num_images", 0)
        for score in Scores._fields:
            row[f"{subset}_{score}"] = found["model"][score]["mean"] if found else ""
        linear = found.get("linear_map")
        row[f"{subset}_linear_map_psnr"] = linear["psnr"]["mean"] if linear else ""
        row[f"{subset}_linear_map_ssim"] = linear["ssim"]["mean"] if linear else ""
    return row
