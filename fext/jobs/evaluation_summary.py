"""What an evaluation comes to: numbers for summary.json, and a row of scores.csv."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fext.data.groups import ImageGroups, Way, group_images
from fext.jobs.encoders import EncoderComparison
from fext.jobs.scoring import METHODS, SUBSETS, Evaluation, Scored
from fext.model.intervals import Interval, difference_interval, mean_interval
from fext.model.latent_statistics import LatentSummary
from fext.model.scores import Scores
from fext.pictures.evaluation_report import features_verdict, reconstruction_verdict
from fext.store.checkpoints import Checkpoint

_NUM_WORST = 5
_LONG = ("channel_means", "channel_stds", "spectrum")  # of the latent's summary: channels.csv has them


def summarize(
    evaluation: Evaluation, scored: Scored, latent: LatentSummary, encoders: EncoderComparison | None
) -> dict[str, Any]:
    """What summary.json holds: of each subset, method and score its mean, the mean's interval, spread, min and max."""
    checkpoint = evaluation.checkpoint
    groups = groups_of(scored, evaluation.settings.interval_groups)
    summary: dict[str, Any] = {
        "checkpoint": checkpoint.name,
        "sha256": checkpoint.sha256,
        "architecture": checkpoint.plan.architecture,
        "epoch_chosen_by": checkpoint.chosen_by,
        "source": str(evaluation.source.location),
        "device": evaluation.computation.device.type,
        "precision": evaluation.computation.precision,
        "num_images": len(scored.names),
        "interval_groups": groups.to_dict() | {"sentence": groups.sentence()},
        "subsets": {subset: _subset(scored, subset, groups) for subset in scored.found_subsets()},
        "latent": {name: value for name, value in asdict(latent).items() if name not in _LONG},
        "regions": {
            subset: {
                "mae": regions(scored.error_maps[subset], checkpoint.plan.latent_shape).round(6).tolist(),
                "ssim": regions(scored.ssim_maps[subset], checkpoint.plan.latent_shape).round(6).tolist(),
            }
            for subset in scored.found_subsets()
        },
        "rejected": [{"image": name, "reason": reason} for name, reason in scored.rejected],
    }
    if {"train", "test"} <= set(scored.found_subsets()):
        summary["train_minus_test"] = {
            score: _interval(_train_minus_test(scored, score, groups)) for score in Scores._fields
        }
    if encoders is not None:
        summary["encoders"] = _encoders(encoders)
    judged = {"reconstruction": reconstruction_verdict(summary), "features": features_verdict(summary)}
    summary["verdict"] = {name: verdict.to_dict() for name, verdict in judged.items() if verdict is not None}
    return summary


def _train_minus_test(scored: Scored, score: str, groups: ImageGroups) -> Interval:
    train, test = (scored.values("model", score, side) for side in ("train", "test"))
    train_groups, test_groups = (groups.codes[scored.subsets == side] for side in ("train", "test"))
    return difference_interval(train, test, train_groups, test_groups)


def groups_of(scored: Scored, way: Way) -> ImageGroups:
    """The images in groups for intervals; those whose scores are equal to the last bit are copies."""
    _, contents = np.unique(scored.scores["model"], axis=0, return_inverse=True)
    return group_images(scored.names, way, contents.ravel())


def _subset(scored: Scored, subset: str, groups: ImageGroups) -> dict[str, Any]:
    is_in = scored.subsets == subset
    own = groups.codes[is_in]
    found: dict[str, Any] = {"num_images": int(is_in.sum()), "num_groups": groups.of(is_in).count}
    methods = [method for method in METHODS if method in scored.scores]
    for method in methods:
        found[method] = {score: _statistics(scored.values(method, score, subset), own) for score in Scores._fields}
    if "linear_map" in methods:
        found["model_minus_linear_map"] = {
            score: _interval(
                mean_interval(scored.values("model", score, subset) - scored.values("linear_map", score, subset), own)
            )
            for score in Scores._fields
        }
    found["worst_images"] = [
        {"image": scored.names[place], "psnr": float(psnr), "ssim": float(ssim)}
        for place in by_psnr(scored, subset)[:_NUM_WORST]
        for _, _, psnr, ssim in [scored.scores["model"][place]]
    ]
    return found


def by_psnr(scored: Scored, subset: str) -> list[int]:
    """The places of a subset's images, the worst reconstructed first."""
    places = np.flatnonzero(scored.subsets == subset)
    psnr = scored.scores["model"][places, Scores._fields.index("psnr")]
    found: list[int] = places[np.argsort(psnr, kind="stable")].tolist()
    return found


def _statistics(values: NDArray[np.float64], groups: NDArray[np.int64]) -> dict[str, float | None]:
    return {
        **_interval(mean_interval(values, groups)),
        "std": float(values.std()),
        "min": float(values.min()),
        "max": float(values.max()),
    }


def _interval(interval: Interval) -> dict[str, float | None]:
    return {"mean": interval.mean, "mean_low": interval.low, "mean_high": interval.high}


def _encoders(comparison: EncoderComparison) -> dict[str, Any]:
    table = {}
    for found in comparison.encoders:
        gain = found.gain_over_untrained
        table[found.encoder] = {
            "readout_psnr": found.readout_psnr,
            "gain_over_untrained": None if gain is None else _interval(gain),
            "effective_rank": found.effective_rank,
            "label_accuracy": None if found.label_accuracy is None else found.label_accuracy.mean,
            "label_accuracy_interval": None if found.label_accuracy is None else _interval(found.label_accuracy),
            "label_accuracy_model_minus": None if found.model_minus is None else _interval(found.model_minus),
        }
    return {
        "num_train": comparison.num_train,
        "num_test": comparison.num_test,
        "num_labels": comparison.num_labels,
        "label_chance": comparison.label_chance,
        "encoders": table,
    }


def regions(pixels: NDArray[np.float64], latent_shape: Sequence[int]) -> NDArray[np.float64]:
    """A map (H, W) averaged over the squares that the positions of the latent stand for: (rows, columns)."""
    rows, columns = latent_shape[0], latent_shape[1]
    height, width = pixels.shape
    averaged: NDArray[np.float64] = pixels.reshape(rows, height // rows, columns, width // columns).mean(axis=(1, 3))
    return averaged


def scores_row(checkpoint: Checkpoint, summary: Mapping[str, Any]) -> dict[str, object]:
    """A model's row of scores.csv."""
    row: dict[str, object] = {
        "checkpoint": checkpoint.name,
        "architecture": checkpoint.plan.architecture,
        "epochs": checkpoint.summary.get("epochs", ""),
        "best_epoch": checkpoint.summary.get("best_epoch", ""),
        "epoch_chosen_by": checkpoint.chosen_by,
    }
    for subset in SUBSETS:
        found = summary["subsets"].get(subset, {})
        row[f"{subset}_images"] = found.get("num_images", 0)
        for score in Scores._fields:
            row[f"{subset}_{score}"] = found["model"][score]["mean"] if found else ""
        linear = found.get("linear_map")
        row[f"{subset}_linear_map_psnr"] = linear["psnr"]["mean"] if linear else ""
        row[f"{subset}_linear_map_ssim"] = linear["ssim"]["mean"] if linear else ""
    return row
