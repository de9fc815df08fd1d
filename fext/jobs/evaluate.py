"""Evaluation: how well a checkpoint reconstructs images, what its latent holds, and whether training helped."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fext.compute.device import prepare_computation
from fext.data.labels import label_of
from fext.data.names import Names, name_to_bytes
from fext.data.source import ImageSource, find_images
from fext.errors import SourceError
from fext.jobs.encoders import EncoderComparison, compare_encoders
from fext.jobs.evaluation_summary import by_psnr, regions, scores_row, summarize
from fext.jobs.kept_channels import score_kept_channels
from fext.jobs.latent_maps import LatentMaps, Neighbourhood, find_neighbours, lay_out
from fext.jobs.linear import learn_linear_map
from fext.jobs.pictures import reconstruction_pairs
from fext.jobs.scoring import METHODS, Evaluation, Sample, Scored, score_images
from fext.model.latent_statistics import LatentSummary
from fext.model.linear_map import LinearMap
from fext.model.scores import Scores
from fext.pictures.evaluation_figures import latent_figure, maps_figure, neighbours_figure, regions_figure
from fext.pictures.evaluation_report import EvaluationReport, Placed, evaluation_page
from fext.pictures.figures import Pair, kept_channels_figure, pairs_figure, scores_figure
from fext.reporting import Reporter
from fext.settings import Settings
from fext.store import files
from fext.store.checkpoints import Checkpoint, load_checkpoint, record_scores
from fext.store.workspace import Workspace

_NUM_SHOWN = 6
_MOST_ON_A_MAP = 400


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
class _Findings:
    """All that was found of a checkpoint, ready to be written."""

    scored: Scored
    latent: LatentSummary
    encoders: EncoderComparison | None
    kept_channels: Mapping[int, float]
    pairs: Mapping[str, list[Pair]]
    neighbours: list[Neighbourhood]
    maps: LatentMaps | None


def evaluate(
    workspace: Workspace, settings: Settings, folder: Path, images: Path | None, reporter: Reporter
) -> EvaluationResult:
    """Score every train and test image of a checkpoint and write evaluation/ and a row of scores.csv.

    With `images`, those of that folder or list, which count as new; where the checkpoint's own folder has gone, this is
    where it went, and images named in the split count as train and test.
    Raises CheckpointError, SourceError and DeviceError.
    """
    started = time.perf_counter()
    computation = prepare_computation(settings)
    checkpoint = load_checkpoint(folder)
    computation.place(checkpoint.model)
    source, names, subsets = _images_to_score(checkpoint, images)
    evaluation = Evaluation(checkpoint, source, names, subsets, settings, computation, reporter)
    reporter.message(f"evaluating {checkpoint.name} on {len(names)} images, {computation.describe()}")
    found = _find(evaluation)
    summary = summarize(evaluation, found.scored, found.latent, found.encoders)
    if found.kept_channels:
        summary["kept_channels"] = found.kept_channels
    _write_tables(evaluation, found, summary)
    _write_pictures(evaluation, found)
    files.write_text_chunks(folder / "evaluation" / "report.html", evaluation_page(_report(evaluation, found, summary)))
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


def _images_to_score(checkpoint: Checkpoint, images: Path | None) -> tuple[ImageSource, Names, "np.ndarray[Any, Any]"]:
    """Where the images are, their names in order, and the subset of each."""
    split = checkpoint.split()
    known = dict.fromkeys(split.train, "train") | dict.fromkeys(split.test, "test")
    if images is not None:
        source = find_images(images)
        if not source.names:
            raise SourceError(f"{source.describe_empty()}: name a folder of images")
        if not _may_be_its_own(checkpoint, images):
            known = {}
        return source, source.names, np.array([known.get(name, "new") for name in source.names], "U5")
    location = Path(checkpoint.source)
    if not location.exists():
        raise SourceError(f"the images of {checkpoint.name} are no longer in {location}: name their folder (--images)")
    root = location if location.is_dir() else location.parent
    names = Names.of(sorted(known, key=name_to_bytes))
    return ImageSource(location, root, names, 0), names, np.array([known[name] for name in names], "U5")


def _may_be_its_own(checkpoint: Checkpoint, images: Path) -> bool:
    """Whether this is the folder that the checkpoint's images were taken from, or they are there no more."""
    own = Path(checkpoint.source)
    return not own.exists() or own.samefile(images)


def _find(evaluation: Evaluation) -> _Findings:
    linear_map = _learn_linear_map(evaluation)
    scored = score_images(evaluation, linear_map)
    if not len(scored.names):
        raise SourceError(
            f"none of the {len(evaluation.names)} images in {evaluation.source.location} can be read: "
            f"{scored.rejected[0][1]}"
        )
    encoders = compare_encoders(evaluation, linear_map) if linear_map is not None else None
    is_ordered = evaluation.checkpoint.settings.ordered_latent
    return _Findings(
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
    names = [scored.names[place] for place in by_psnr(scored, _shown_subset(scored))]
    middle = max(0, -((_NUM_SHOWN - len(names)) // 2))
    return {
        "best": names[::-1][:_NUM_SHOWN],
        "typical": names[middle : middle + _NUM_SHOWN],
        "worst": names[:_NUM_SHOWN],
    }


def _shown_subset(scored: Scored) -> str:
    """Test where there are any, for these are what the model has not seen."""
    found = scored.found_subsets()
    return next(subset for subset in ("test", "new", "train") if subset in found)


def _pairs(evaluation: Evaluation, names: list[str]) -> list[Pair]:
    checkpoint = evaluation.checkpoint
    return reconstruction_pairs(
        checkpoint.model, evaluation.source, names, checkpoint.preprocessing, evaluation.computation
    )


# ---------------------------------------------------------------- tables and pictures


def _write_tables(evaluation: Evaluation, found: _Findings, summary: Mapping[str, Any]) -> None:
    folder = evaluation.checkpoint.folder / "evaluation"
    header = ["image", "subset", *Scores._fields, "linear_map_psnr", "linear_map_ssim"]
    files.write_csv(folder / "per_image.csv", header, _per_image_rows(found.scored))
    files.write_csv(folder / "channels.csv", ("channel", "mean", "std", "kind"), _channel_rows(found.latent))
    header = ["image", "neighbour", "rank", "similarity"]
    files.write_csv(folder / "neighbours.csv", header, _neighbour_rows(found))
    header = ["image", "subset", "label", "pca_1", "pca_2", "tsne_1", "tsne_2"]
    files.write_csv(folder / "latent_map.csv", header, _map_rows(found))
    if found.kept_channels:
        files.write_csv(folder / "kept_channels.csv", ("channels", "psnr"), list(found.kept_channels.items()))
    files.write_json(folder / "summary.json", summary)


def _per_image_rows(scored: Scored) -> Iterator[list[object]]:
    psnr, ssim = Scores._fields.index("psnr"), Scores._fields.index("ssim")
    linear = scored.scores.get("linear_map")
    for place, (name, subset) in enumerate(zip(scored.names, scored.subsets, strict=True)):
        beside = ["", ""] if linear is None else [float(linear[place, psnr]), float(linear[place, ssim])]
        yield [name, subset, *scored.scores["model"][place].tolist(), *beside]


def _channel_rows(latent: LatentSummary) -> Iterator[list[object]]:
    kinds = dict.fromkeys(latent.redundant_channels, "redundant") | dict.fromkeys(latent.dead_channels, "dead")
    for channel, (mean, std) in enumerate(zip(latent.channel_means, latent.channel_stds, strict=True)):
        yield [channel, f"{mean:.6g}", f"{std:.6g}", kinds.get(channel, "")]


def _neighbour_rows(found: _Findings) -> Iterator[list[object]]:
    names = found.scored.sample.names
    for place, neighbours in found.neighbours:
        for rank, neighbour in enumerate(neighbours, start=1):
            yield [names[place], names[neighbour.place], rank, f"{neighbour.similarity:.6f}"]


def _map_rows(found: _Findings) -> Iterator[list[object]]:
    sample, maps = found.scored.sample, found.maps
    if maps is None:
        return
    for place, name in enumerate(sample.names):
        points = [*maps.pca[place].tolist(), *maps.tsne[place].tolist()]
        yield [name, sample.subsets[place], label_of(name), *(f"{value:.6g}" for value in points)]


def _write_pictures(evaluation: Evaluation, found: _Findings) -> None:
    name, folder, scored = evaluation.checkpoint.name, evaluation.checkpoint.folder / "evaluation", found.scored
    subset, shape = _shown_subset(scored), evaluation.checkpoint.plan.latent_shape
    psnr = {
        side: {method: scored.values(method, "psnr", side) for method in METHODS if method in scored.scores}
        for side in scored.found_subsets()
    }
    errors, ssim = scored.error_maps[subset], scored.ssim_maps[subset]
    heading = f"{name}: where the errors lie, mean of the {subset} images"
    latent = found.latent
    figures = {
        "psnr": scores_figure(psnr),
        "regions": regions_figure(errors, regions(errors, shape), regions(ssim, shape), heading),
        "latent": latent_figure(latent.channel_stds, latent.spectrum, latent.effective_rank),
    }
    if found.kept_channels:
        figures["kept_channels"] = kept_channels_figure(found.kept_channels)
    for title, pairs in found.pairs.items():
        above = f"{name}: {title} {subset} images, their reconstructions, and the error"
        figures[title] = pairs_figure(above, pairs, with_errors=True)
    if found.neighbours:
        figures["neighbours"] = neighbours_figure(_neighbours_shown(scored.sample, found.neighbours))
    if found.maps is not None:
        figures["latent_maps"] = _maps_figure(scored.sample, found.maps)
    for title, figure in figures.items():
        files.write_figure(folder / f"{title}.png", figure)


def _report(evaluation: Evaluation, found: _Findings, summary: Mapping[str, Any]) -> EvaluationReport:
    scored, subset, checkpoint = found.scored, _shown_subset(found.scored), evaluation.checkpoint
    shape = checkpoint.plan.latent_shape
    history = checkpoint.folder / "history.csv"
    return EvaluationReport(
        summary=summary,
        training=_training_facts(checkpoint),
        history=[_as_numbers(row) for row in files.read_csv(history)] if history.is_file() else [],
        names=scored.names,
        subsets=scored.subsets,
        scores=scored.scores,
        shown=subset,
        pairs=found.pairs,
        error_map=scored.error_maps[subset],
        region_errors=regions(scored.error_maps[subset], shape),
        region_ssim=regions(scored.ssim_maps[subset], shape),
        latent=found.latent,
        neighbours=_neighbours_shown(scored.sample, found.neighbours),
        placed=None if found.maps is None else _placed(scored.sample, found.maps),
    )


def _as_numbers(row: Mapping[str, str]) -> dict[str, float]:
    return {name: float(value) for name, value in row.items()}


def _training_facts(checkpoint: Checkpoint) -> dict[str, object]:
    settings = checkpoint.settings
    height, width, channels = checkpoint.plan.picture_shape
    rows, columns, latent_channels = checkpoint.plan.latent_shape
    return {
        "architecture": checkpoint.plan.architecture,
        "picture": f"{height}×{width}×{channels}, {checkpoint.preprocessing.resize_mode}",
        "latent": f"{rows}×{columns}×{latent_channels}",
        "epochs": checkpoint.summary.get("epochs", ""),
        "best epoch": checkpoint.summary.get("best_epoch", ""),
        "loss": settings.loss_name,
        "optimizer": settings.optimizer,
        "learning rate": settings.learning_rate,
        "schedule": settings.lr_schedule,
        "batch size": settings.batch_size,
    }


def _placed(sample: Sample, maps: LatentMaps) -> Placed:
    points = {f"Principal components ({maps.pca_share:.0%} of the variance)": maps.pca, "t-SNE": maps.tsne}
    return Placed(sample.names, sample.subsets, [label_of(name) for name in sample.names], sample.thumbnails, points)


def _neighbours_shown(
    sample: Sample, found: list[Neighbourhood]
) -> list[list[tuple["np.ndarray[Any, Any]", str, str]]]:
    return [
        [
            (sample.thumbnails[place], sample.names[place], f"{sample.subsets[place]} image"),
            *(
                (sample.thumbnails[near], sample.names[near], f"{sample.subsets[near]}, {similarity:.3f}")
                for near, similarity in neighbours
            ),
        ]
        for place, neighbours in found
    ]


def _maps_figure(sample: Sample, maps: LatentMaps) -> Any:
    chosen = slice(None, None, -(-len(sample.names) // _MOST_ON_A_MAP))
    points = {
        f"principal components ({maps.pca_share:.0%} of the variance)": maps.pca[chosen],
        "t-SNE": maps.tsne[chosen],
    }
    return maps_figure(points, sample.thumbnails[chosen], sample.subsets[chosen])
