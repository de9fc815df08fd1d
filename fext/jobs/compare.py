"""Several checkpoints side by side, on images that none of them was trained on: which one is better, and how sure."""

import math
import os
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fext.compute.device import prepare_computation
from fext.data.groups import ImageGroups, group_images
from fext.data.names import Names
from fext.data.source import known_images
from fext.errors import CheckpointError, FextError, UsageError
from fext.jobs.evaluate import evaluate
from fext.jobs.pictures import reconstruction_pairs
from fext.jobs.recognition import NEW
from fext.model.intervals import CONFIDENCE, Interval, mean_interval
from fext.model.scores import Scores
from fext.pictures.comparison_report import ComparedCheckpoint, Comparison, SideBySide, comparison_page
from fext.reporting import Reporter
from fext.settings import Settings
from fext.store import files
from fext.store.checkpoints import has_weights, load_checkpoint, load_description
from fext.store.workspace import Workspace

_NUM_SHOWN = 4  # images at each end of the differences
_FEWEST = 2


@dataclass(frozen=True)
class ComparisonResult:
    """The checkpoints, the best by PSNR first, what the numbers say, and where it was written."""

    comparison: Comparison
    verdicts: Sequence[str]
    table: Path
    report: Path


@dataclass(frozen=True)
class _Evaluated:
    """A checkpoint's scores of its test images and of new ones, (N, 4) in the order of Scores._fields, and the place of
    each. They are kind where the epoch was chosen by these test images."""

    folder: Path
    summary: Mapping[str, Any]
    places: Mapping[str, int]
    scores: NDArray[np.float64]
    are_kind: bool


def compare_checkpoints(
    workspace: Workspace, settings: Settings, folders: Sequence[Path], images: Path | None, reporter: Reporter
) -> ComparisonResult:
    """Hold checkpoints against each other and write training/checkpoints/comparison.csv and .html.

    Those without an up-to-date evaluation are evaluated first; with `images` all are, on the images of that folder or
    list. Raises UsageError for fewer than two checkpoints, CheckpointError where they have no images in common that
    none of them was trained on, and what evaluating raises.
    """
    folders = list(dict.fromkeys(folders))
    if len(folders) < _FEWEST:
        raise UsageError("a comparison needs at least two different checkpoints")
    if len({folder.name for folder in folders}) < len(folders):
        raise UsageError("two of these checkpoints have the same name: rename the folder of one")
    evaluated = [_evaluated(workspace, settings, folder, images, reporter) for folder in folders]
    names = _images_in_common(evaluated)
    scores = {found.folder.name: found.scores[[found.places[name] for name in names]] for found in evaluated}
    _, contents = np.unique(next(iter(scores.values())), axis=0, return_inverse=True)
    groups = group_images(names, settings.interval_groups, contents.ravel())
    checkpoints = _ranked(evaluated, scores, groups)
    location = Path(str(evaluated[0].summary["source"]))
    shown = _side_by_side(settings, [found.folder for found in evaluated], location, checkpoints, names, scores)
    comparison = Comparison(str(location), names, checkpoints, scores, shown, groups.sentence())
    table, report = workspace.checkpoints / "comparison.csv", workspace.checkpoints / "comparison.html"
    files.write_csv(table, _COLUMNS, _rows(comparison))
    verdicts = [*_verdicts(comparison), *_of_kind_scores(evaluated)]
    files.write_text_chunks(report, comparison_page(comparison, verdicts))
    return ComparisonResult(comparison, verdicts, table, report)


def _evaluated(
    workspace: Workspace, settings: Settings, folder: Path, images: Path | None, reporter: Reporter
) -> _Evaluated:
    if images is not None or not _is_up_to_date(folder, settings):
        evaluate(workspace, settings, folder, images, reporter)
    places: dict[str, int] = {}
    scores = array("d")
    has_test = False
    for row in files.iter_csv(folder / "evaluation" / "per_image.csv"):
        if row["subset"] in ("test", NEW):
            has_test |= row["subset"] == "test"
            places[row["image"]] = len(places)
            scores.extend(float(row[score]) for score in Scores._fields)
    summary = files.read_json(folder / "evaluation" / "summary.json")
    are_kind = has_test and summary.get("epoch_chosen_by", "test") == "test"
    return _Evaluated(folder, summary, places, np.asarray(scores).reshape(-1, len(Scores._fields)), are_kind)


def _is_up_to_date(folder: Path, settings: Settings) -> bool:
    """Whether the evaluation that stands there is of these weights, on the images of the checkpoint's own split, and
    computed as it would be now."""
    computation = prepare_computation(settings)
    try:
        summary = files.read_json(folder / "evaluation" / "summary.json")
        is_the_same = (summary["source"], summary["device"], summary["precision"]) == (
            load_description(folder).source,
            computation.device.type,
            computation.precision,
        )
        return is_the_same and has_weights(folder, str(summary["sha256"]))
    except (FextError, KeyError, TypeError):
        return False


def _images_in_common(evaluated: Sequence[_Evaluated]) -> list[str]:
    """Names of the images that every checkpoint was scored on and none was trained on, in order."""
    sources = {os.path.realpath(str(found.summary["source"])) for found in evaluated}
    if len(sources) > 1:
        raise CheckpointError(
            f"these checkpoints were trained on images of different folders ({', '.join(sorted(sources))}): name a "
            f"folder of new images to compare them on (--images)"
        )
    first, *others = evaluated
    names = [name for name in first.places if all(name in found.places for found in others)]
    if len(names) < _FEWEST:
        raise CheckpointError(
            "these checkpoints have no test images in common that none of them was trained on: name a folder of new "
            "images to compare them on (--images)"
        )
    return names


def _ranked(
    evaluated: Sequence[_Evaluated], scores: Mapping[str, NDArray[np.float64]], groups: ImageGroups
) -> list[ComparedCheckpoint]:
    """The best by mean PSNR first; each held against it, image by image."""
    psnr, ssim = Scores._fields.index("psnr"), Scores._fields.index("ssim")
    order = sorted(evaluated, key=lambda found: -scores[found.folder.name][:, psnr].mean())
    best = scores[order[0].folder.name]
    # The best is chosen on the same images, and each of the others is held against it: their intervals are made as wide
    # as all pairs would need together (Bonferroni).
    confidence = 1 - (1 - CONFIDENCE) / math.comb(len(order), 2)
    ranked = []
    for found in order:
        own = scores[found.folder.name]

        def less_best(score: int, own: NDArray[np.float64] = own) -> Interval:
            return mean_interval(own[:, score] - best[:, score], groups.codes, confidence)

        description = load_description(found.folder)
        is_best = found is order[0]
        ranked.append(
            ComparedCheckpoint(
                name=found.folder.name,
                architecture=description.plan.architecture,
                latent_shape=description.plan.latent_shape,
                picture_shape=description.plan.picture_shape,
                resize_mode=description.preprocessing.resize_mode,
                epochs=description.summary.get("epochs", ""),
                psnr=mean_interval(own[:, psnr], groups.codes),
                ssim=mean_interval(own[:, ssim], groups.codes),
                psnr_minus_best=None if is_best else less_best(psnr),
                ssim_minus_best=None if is_best else less_best(ssim),
            )
        )
    return ranked


def _verdicts(comparison: Comparison) -> list[str]:
    best, *others = comparison.checkpoints
    count = f"{len(comparison.names):,} images that none of them was trained on"
    found = []
    for other in others:
        assert other.psnr_minus_best is not None
        assert other.ssim_minus_best is not None
        gain = other.psnr_minus_best.negated()
        if gain.excludes_zero:
            text = f"{best.name} is better than {other.name}: {gain.text('dB')} PSNR on {count}."
            if other.ssim_minus_best.excludes_zero and other.ssim_minus_best.mean > 0:
                text += f" By SSIM it is the other way round: {other.ssim_minus_best.text(digits=4)} for {other.name}."
        else:
            text = f"{best.name} and {other.name} cannot be told apart: {gain.text('dB')} PSNR on {count}."
        found.append(text)
    if len({(checkpoint.picture_shape, checkpoint.resize_mode) for checkpoint in comparison.checkpoints}) > 1:
        found.append(
            "They see the images at different sizes or cuts, and each is scored at its own: take the scores with care."
        )
    return found


def _of_kind_scores(evaluated: Sequence[_Evaluated]) -> Iterator[str]:
    kind = [found.folder.name for found in evaluated if found.are_kind]
    if kind:
        its = "its" if len(kind) == 1 else "their"
        yield f"The epoch of {' and of '.join(kind)} was chosen on {its} own test images: {its} scores are kind."


# ---------------------------------------------------------------- pictures and table


def _side_by_side(
    settings: Settings,
    folders: Sequence[Path],
    location: Path,
    checkpoints: Sequence[ComparedCheckpoint],
    names: Sequence[str],
    scores: Mapping[str, NDArray[np.float64]],
) -> list[SideBySide]:
    """Where the best two differ most, either way, as each checkpoint reconstructs it."""
    psnr = Scores._fields.index("psnr")
    gains = scores[checkpoints[0].name][:, psnr] - scores[checkpoints[1].name][:, psnr]
    order = np.argsort(-gains, kind="stable").tolist()
    places = list(dict.fromkeys([*order[:_NUM_SHOWN], *order[-_NUM_SHOWN:]]))
    chosen = [names[place] for place in places]
    computation = prepare_computation(settings)
    source = known_images(location, Names.of(names))
    pairs = {}
    for folder in folders:
        checkpoint = load_checkpoint(folder)
        computation.place(checkpoint.model)
        found = reconstruction_pairs(checkpoint.model, source, chosen, checkpoint.preprocessing, computation)
        pairs[folder.name] = {pair.name: pair for pair in found}
    return [
        SideBySide(name, float(gains[place]), {model: found[name] for model, found in pairs.items()})
        for place, name in zip(places, chosen, strict=True)
        if all(name in found for found in pairs.values())
    ]


_COLUMNS = (
    "checkpoint", "architecture", "epochs", "images",
    "psnr", "psnr_low", "psnr_high", "psnr_minus_best", "psnr_minus_best_low", "psnr_minus_best_high",
    "ssim", "ssim_low", "ssim_high", "ssim_minus_best", "ssim_minus_best_low", "ssim_minus_best_high",
)  # fmt: skip


def _rows(comparison: Comparison) -> Iterator[list[object]]:
    for checkpoint in comparison.checkpoints:
        intervals = (checkpoint.psnr, checkpoint.psnr_minus_best, checkpoint.ssim, checkpoint.ssim_minus_best)
        cells = [cell for interval in intervals for cell in (interval or ("", "", ""))]
        facts = [checkpoint.name, checkpoint.architecture, checkpoint.epochs, len(comparison.names)]
        yield [*facts, *("" if cell is None else cell for cell in cells)]
