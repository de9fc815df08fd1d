"""Evaluation: how well a checkpoint reconstructs images, what its latent holds, and whether training helped."""

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fext.compute.device import keeping_freed_memory, prepare_computation
from fext.compute.memory import LESS_TO_EVALUATE, lowering
from fext.data.names import Names, name_to_bytes
from fext.data.source import ImageSource, find_images, known_images
from fext.errors import SourceError
from fext.jobs.encoders import compare_encoders
from fext.jobs.evaluation_output import Findings, shown_subset, write_evaluation
from fext.jobs.evaluation_summary import by_psnr, scores_row, summarize
from fext.jobs.kept_channels import score_kept_channels
from fext.jobs.latent_maps import find_neighbours, lay_out
from fext.jobs.linear import learn_linear_map
from fext.jobs.pictures import reconstruction_pairs
from fext.jobs.recognition import recognize, tell_sides
from fext.jobs.scoring import Evaluation, Scored, score_images
from fext.model.linear_map import LinearMap
from fext.pictures.figures import Pair
from fext.reporting import Reporter
from fext.settings import Settings
from fext.store.checkpoints import Checkpoint, load_checkpoint, record_scores
from fext.store.workspace import Workspace

_NUM_SHOWN = 6


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


@lowering(LESS_TO_EVALUATE)
@keeping_freed_memory()
def evaluate(
    workspace: Workspace, settings: Settings, folder: Path, images: Path | None, reporter: Reporter
) -> EvaluationResult:
    """Score every image of a checkpoint's split and write evaluation/ and a row of scores.csv.

    With `images`, those of that folder or list: what is an image of the split, wherever the file lies, counts as train,
    validation or test, others as new.
    Raises CheckpointError, SourceError and DeviceError.
    """
    started = time.perf_counter()
    computation = prepare_computation(settings)
    checkpoint = load_checkpoint(folder)
    computation.place(checkpoint.model)
    source, subsets = _images_to_score(workspace, checkpoint, images, reporter)
    evaluation = Evaluation(checkpoint, source, source.names, subsets, settings, computation, reporter)
    reporter.message(f"evaluating {checkpoint.name} on {len(source)} images, {computation.describe()}")
    found = _find(evaluation)
    summary = summarize(evaluation, found.scored, found.latent, found.encoders)
    if found.kept_channels:
        summary["kept_channels"] = found.kept_channels
    write_evaluation(evaluation, found, summary)
    scores_file = record_scores(workspace.checkpoints, scores_row(checkpoint, summary))
    return EvaluationResult(
        name=checkpoint.name,
        folder=folder / "evaluation",
        scores_file=scores_file,
        summary=summary,
        num_images=len(found.scored.names),
        num_rejected=len(found.scored.rejected),
        seconds=time.perf_counter() - started,
        images_per_second=found.scored.images_per_second,
    )


# ---------------------------------------------------------------- what to score


def _images_to_score(
    workspace: Workspace, checkpoint: Checkpoint, images: Path | None, reporter: Reporter
) -> tuple[ImageSource, NDArray[np.str_]]:
    """Where the images are, and the subset of each."""
    if images is not None:
        source = find_images(images, reporter)
        if not source.names:
            raise SourceError(f"{source.describe_empty()}: name a folder of images")
        subsets = recognize(workspace, checkpoint, source, reporter)
        tell_sides(checkpoint, subsets, reporter)
        return source, subsets
    location = Path(checkpoint.source)
    if not os.path.exists(location):
        raise SourceError(f"the images of {checkpoint.name} are no longer in {location}: name their folder (--images)")
    names = Names.of(sorted(checkpoint.split().names(), key=name_to_bytes))
    source = known_images(location, names)
    return source, recognize(workspace, checkpoint, source, reporter)


def _find(evaluation: Evaluation) -> Findings:
    linear_map = _learn_linear_map(evaluation)
    scored = score_images(evaluation, linear_map)
    if not len(scored.names):
        raise SourceError(
            f"none of the {len(evaluation.names)} images in {evaluation.source.location} can be read: "
            f"{scored.rejected[0][1]}"
        )
    encoders = compare_encoders(evaluation, linear_map) if linear_map is not None else None
    is_ordered = evaluation.checkpoint.settings.ordered_latent
    return Findings(
        scored=scored,
        latent=scored.latent.summarize(),
        encoders=encoders,
        kept_channels=_score_kept_channels(evaluation) if is_ordered else {},
        pairs={title: _pairs(evaluation, names) for title, names in _best_typical_worst(scored).items()},
        neighbours=find_neighbours(scored.sample),
        maps=lay_out(scored.sample, evaluation.settings.seed),
    )


def _learn_linear_map(evaluation: Evaluation) -> LinearMap | None:
    train = evaluation.of_subset("train")
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


def _score_kept_channels(evaluation: Evaluation) -> dict[int, float]:
    """PSNR of test images (else of all) by how many latent channels are kept."""
    names = evaluation.of_subset("test") or evaluation.names
    return score_kept_channels(
        evaluation.checkpoint.model,
        evaluation.source,
        names,
        evaluation.stream(names),
        evaluation.computation,
        evaluation.settings.inference_batch_size,
        evaluation.reporter,
    )


def _best_typical_worst(scored: Scored) -> dict[str, list[str]]:
    """Names by PSNR, of the images that are shown."""
    names = [scored.names[place] for place in by_psnr(scored, shown_subset(scored))]
    middle = max(0, -((_NUM_SHOWN - len(names)) // 2))
    return {
        "best": names[::-1][:_NUM_SHOWN],
        "typical": names[middle : middle + _NUM_SHOWN],
        "worst": names[:_NUM_SHOWN],
    }


def _pairs(evaluation: Evaluation, names: list[str]) -> list[Pair]:
    checkpoint = evaluation.checkpoint
    return reconstruction_pairs(
        checkpoint.model, evaluation.source, names, checkpoint.preprocessing, evaluation.computation
    )
