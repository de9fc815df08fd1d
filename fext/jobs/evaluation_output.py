"""What an evaluation leaves behind: tables, pictures and the report page."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from fext.data.labels import label_of
from fext.jobs.encoders import EncoderComparison
from fext.jobs.evaluation_summary import regions
from fext.jobs.latent_maps import LatentMaps, Neighbourhood
from fext.jobs.scoring import METHODS, Evaluation, Sample, Scored
from fext.model.latent_statistics import LatentSummary
from fext.model.scores import Scores
from fext.pictures.evaluation_figures import latent_figure, maps_figure, neighbours_figure, regions_figure
from fext.pictures.evaluation_report import EvaluationReport, Placed, evaluation_page
from fext.pictures.figures import Pair, kept_channels_figure, pairs_figure, scores_figure
from fext.store import files
from fext.store.checkpoints import Checkpoint

_MOST_ON_A_MAP = 400
_NOT_ALWAYS = ("neighbours.png", "latent_maps.png", "kept_channels.csv", "kept_channels.png")


@dataclass(frozen=True)
class Findings:
    """All that was found of a checkpoint, ready to be written."""

    scored: Scored
    latent: LatentSummary
    encoders: EncoderComparison | None
    kept_channels: Mapping[int, float]
    pairs: Mapping[str, list[Pair]]
    neighbours: list[Neighbourhood]
    maps: LatentMaps | None


def write_evaluation(evaluation: Evaluation, found: Findings, summary: Mapping[str, Any]) -> None:
    """Write the folder evaluation/ of the checkpoint.

    summary.json goes first and comes last: where it is, all that stands beside it belongs to it.
    """
    folder = evaluation.checkpoint.folder / "evaluation"
    for name in ("summary.json", *_NOT_ALWAYS):
        files.remove_file(folder / name)
    _write_tables(folder, found)
    _write_pictures(folder, evaluation, found)
    files.write_text_chunks(folder / "report.html", evaluation_page(_report(evaluation, found, summary)))
    files.write_json(folder / "summary.json", summary)


def shown_subset(scored: Scored) -> str:
    """Test where there are any, for these are what the model has not seen."""
    found = scored.found_subsets()
    return next(subset for subset in ("test", "new", "validation", "train") if subset in found)


def _write_tables(folder: Path, found: Findings) -> None:
    header = ["image", "subset", *Scores._fields, "linear_map_psnr", "linear_map_ssim"]
    files.write_csv(folder / "per_image.csv", header, _per_image_rows(found.scored))
    files.write_csv(folder / "channels.csv", ("channel", "mean", "std", "kind"), _channel_rows(found.latent))
    header = ["image", "neighbour", "rank", "similarity"]
    files.write_csv(folder / "neighbours.csv", header, _neighbour_rows(found))
    header = ["image", "subset", "label", "pca_1", "pca_2", "tsne_1", "tsne_2"]
    files.write_csv(folder / "latent_map.csv", header, _map_rows(found))
    if found.kept_channels:
        files.write_csv(folder / "kept_channels.csv", ("channels", "psnr"), list(found.kept_channels.items()))


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


def _neighbour_rows(found: Findings) -> Iterator[list[object]]:
    names = found.scored.sample.names
    for place, neighbours in found.neighbours:
        for rank, neighbour in enumerate(neighbours, start=1):
            yield [names[place], names[neighbour.place], rank, f"{neighbour.similarity:.6f}"]


def _map_rows(found: Findings) -> Iterator[list[object]]:
    sample, maps = found.scored.sample, found.maps
    if maps is None:
        return
    for place, name in enumerate(sample.names):
        points = [*maps.pca[place].tolist(), *maps.tsne[place].tolist()]
        yield [name, sample.subsets[place], label_of(name), *(f"{value:.6g}" for value in points)]


def _write_pictures(folder: Path, evaluation: Evaluation, found: Findings) -> None:
    name, scored = evaluation.checkpoint.name, found.scored
    subset, shape = shown_subset(scored), evaluation.checkpoint.plan.latent_shape
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


def _report(evaluation: Evaluation, found: Findings, summary: Mapping[str, Any]) -> EvaluationReport:
    scored, subset, checkpoint = found.scored, shown_subset(found.scored), evaluation.checkpoint
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
        "channels for the picture": checkpoint.plan.picture_channels,
        "epochs": checkpoint.summary.get("epochs", ""),
        "best epoch": checkpoint.summary.get("best_epoch", ""),
        "chosen by": f"{checkpoint.chosen_by} images",
        "loss": settings.loss_name,
        "optimizer": settings.optimizer,
        "learning rate": settings.learning_rate,
        "schedule": settings.lr_schedule,
        "batch size": settings.batch_size,
    }


def _placed(sample: Sample, maps: LatentMaps) -> Placed:
    points = {f"Principal components ({maps.pca_share:.0%} of the variance)": maps.pca, "t-SNE": maps.tsne}
    return Placed(sample.names, sample.subsets, [label_of(name) for name in sample.names], sample.thumbnails, points)


def _neighbours_shown(sample: Sample, found: list[Neighbourhood]) -> list[list[tuple[NDArray[np.uint8], str, str]]]:
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


def _maps_figure(sample: Sample, maps: LatentMaps) -> Figure:
    chosen = slice(None, None, -(-len(sample.names) // _MOST_ON_A_MAP))
    points = {
        f"principal components ({maps.pca_share:.0%} of the variance)": maps.pca[chosen],
        "t-SNE": maps.tsne[chosen],
    }
    return maps_figure(points, sample.thumbnails[chosen], sample.subsets[chosen])
