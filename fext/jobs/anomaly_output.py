"""What a search for anomalies comes to, and the files that hold it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from fext.data.groups import ImageGroups, group_images
from fext.data.images import Preprocessing, load_image
from fext.data.names import Names
from fext.data.source import ImageSource
from fext.errors import ImageRejected, SettingsError
from fext.jobs.anomaly_scores import LINEAR_MAP, MODEL, PIXELS, UNTRAINED, Judge, Positions, encoder_scores
from fext.model.detection import Curves, auroc_above, combined, curves, f1_score, false_alarm_threshold
from fext.model.intervals import Interval
from fext.model.verdict import Verdict, Yardstick, judge
from fext.pictures.anomalies_report import COMBINED, Report, Shown, anomalies_page
from fext.reporting import Progress, Reporter
from fext.settings import Settings
from fext.store import files
from fext.store.checkpoints import Checkpoint

_NUM_SHOWN, _NUM_MISTAKES = 24, 8
_TOLD_APART = Yardstick("its features tell anomalous images from normal ones with an AUROC of {}", "AUROC")
_FEW_HELD_BACK = 20  # of which one in twenty can be told

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Search:
    """The images that could be scored, with their scores, and those of the held-back normal ones.

    `normal` is the folder of normal images, None where folders say nothing.
    """

    checkpoint: Checkpoint
    settings: Settings
    source: ImageSource
    judge: Judge
    normal: str | None
    names: Names
    is_held_back: NDArray[np.bool_]
    scores: Mapping[str, Values]
    held_back: Mapping[str, Values]
    rejected: Sequence[tuple[str, str]]
    num_train: int

    def in_combined(self) -> list[str]:
        """The scores that make the combined one; raises SettingsError where the model has none of these."""
        views = tuple(f"{view}_" for view in self.settings.anomaly_views)
        names = [name for name in self.scores if name.startswith(views)]
        if not names:
            raise SettingsError(
                f"{self.checkpoint.name} has no stages before its latent that see small things: anomaly_views = "
                f"{self.settings.anomaly_views!r} wants another name as well"
            )
        return names

    def labels(self) -> list[str]:
        """The folder of each image; '' where folders say nothing."""
        return [folder_of(name) for name in self.names] if self.normal is not None else [""] * len(self.names)


def folder_of(name: str) -> str:
    """The first of the folders that an image lies in; '' at the top."""
    folder, slash, _ = name.partition("/")
    return folder if slash else ""


@dataclass(frozen=True)
class _Decided:
    """All scores, the combined one first, its threshold, and how well the scores tell labelled images apart."""

    scores: Mapping[str, Values]
    held_back: Values  # the combined score of these
    threshold: float
    labels: Sequence[str]
    is_anomalous: NDArray[np.bool_]
    curves: Mapping[str, Curves]

    @property
    def is_found(self) -> NDArray[np.bool_]:
        found: NDArray[np.bool_] = self.scores[COMBINED] > self.threshold
        return found


def write_search(search: Search, folder: Path, reporter: Reporter) -> dict[str, Any]:
    """Write anomalies.csv, rejected.csv, report.html and, last, summary.json; gives what this holds."""
    decided = _decide(search, reporter)
    summary = _summarize(search, decided)
    order = np.argsort(-decided.scores[COMBINED], kind="stable")
    files.write_csv(folder / "anomalies.csv", *_table(search, decided, order))
    files.write_csv(folder / "rejected.csv", ("image", "reason"), search.rejected)
    report = Report(summary, decided.scores[COMBINED], decided.held_back, decided.labels, search.normal, decided.curves)
    groups = _groups(decided, order)
    with reporter.progress("drawing heat maps", sum(map(len, groups.values()))) as progress:
        shown = {title: _shown(search, decided, places, progress) for title, places in groups.items()}
        files.write_text_chunks(folder / "report.html", anomalies_page(report, shown))
    files.write_json(folder / "summary.json", summary)
    return summary


def _decide(search: Search, reporter: Reporter) -> _Decided:
    names = search.in_combined()
    scores = {COMBINED: combined(search.scores, search.held_back, names), **search.scores}
    held_back = combined(search.held_back, search.held_back, names)
    labels = search.labels()
    is_anomalous = np.array([search.normal is not None and label != search.normal for label in labels])
    found = {name: curves(values, is_anomalous) for name, values in scores.items()} if search.normal is not None else {}
    told_apart = {name: curve for name, curve in found.items() if curve is not None}
    threshold = false_alarm_threshold(held_back, search.settings.anomaly_false_alarms)
    if search.settings.anomaly_threshold == "best_f1":
        if COMBINED in told_apart:
            threshold = told_apart[COMBINED].best_threshold
        else:
            reporter.warning(
                "anomaly_threshold = 'best_f1' wants normal and anomalous images in folders of their own: the "
                "threshold is that of the false alarms"
            )
    if len(held_back) < _FEW_HELD_BACK:
        reporter.warning(f"only {len(held_back)} held-back normal images set the threshold: it is a rough one")
    return _Decided(scores, held_back, threshold, labels, is_anomalous, told_apart)


def _table(
    search: Search, decided: _Decided, order: NDArray[np.intp]
) -> tuple[list[str], Iterator[tuple[object, ...]]]:
    """Header and rows of anomalies.csv, the strangest image first."""
    header = ["image", "folder", *decided.scores, "threshold", "is_anomaly", "sets_threshold"]
    rows = (
        (
            search.names[place],
            decided.labels[place],
            *(repr(float(values[place])) for values in decided.scores.values()),
            repr(decided.threshold),
            bool(decided.is_found[place]),
            bool(search.is_held_back[place]),
        )
        for place in order.tolist()
    )
    return header, rows


def _summarize(search: Search, decided: _Decided) -> dict[str, Any]:
    settings = search.settings
    summary: dict[str, Any] = {
        "checkpoint": {"name": search.checkpoint.name, "sha256": search.checkpoint.sha256},
        "source": str(search.source.location.absolute()),
        "normal": search.normal,
        "num_scored": len(search.names),
        "num_found": int(decided.is_found.sum()),
        "num_rejected": len(search.rejected),
        "num_train_left_out": search.num_train,
        "num_held_back": len(decided.held_back),
        "num_scored_that_set_the_threshold": int(search.is_held_back.sum()),
        "threshold": decided.threshold,
        "threshold_by": settings.anomaly_threshold if decided.curves else "false_alarms",
        "false_alarms_asked": settings.anomaly_false_alarms,
        "false_alarms_held_back": float((decided.held_back > decided.threshold).mean()),
        "settings": {name: getattr(settings, name) for name in ("anomaly_bank", "anomaly_relative", "seed")},
        "combined_of": search.in_combined(),
    }
    if decided.curves:
        summary |= _told_apart(search, decided)
        groups = group_images(search.names, settings.interval_groups)
        verdict = _verdict(search, decided, groups)
        summary["verdict"] = None if verdict is None else verdict.to_dict()
        summary["interval_groups"] = groups.to_dict() | {"sentence": groups.sentence()}
    return summary


def _verdict(search: Search, decided: _Decided, groups: ImageGroups) -> Verdict | None:
    """What the features of the model are worth: the mean of its scores, each on the scale of normal images, beside that
    of the same scores of other encoders and of pixels; None without references."""
    encoders = {name: encoder_scores(search.scores, name) for name in (MODEL, UNTRAINED, LINEAR_MAP, PIXELS)}
    if not encoders[UNTRAINED]:
        return None
    scores = {name: combined(search.scores, search.held_back, parts) for name, parts in encoders.items() if parts}
    above = {
        name: auroc_above(scores[MODEL], other, decided.is_anomalous, groups.codes)
        for name, other in scores.items()
        if name != MODEL
    }
    own = curves(scores[MODEL], decided.is_anomalous)
    assert own is not None
    return judge(_TOLD_APART, Interval(own.auroc, None, None), above)


def _told_apart(search: Search, decided: _Decided) -> dict[str, Any]:
    """How well the folders are told apart, by each score, and by the threshold."""
    labels = np.array(decided.labels)
    is_normal = ~decided.is_anomalous
    by_folder = {}
    for label in sorted(set(decided.labels) - {search.normal}):
        chosen = labels == label
        against = curves(decided.scores[COMBINED][chosen | is_normal], decided.is_anomalous[chosen | is_normal])
        assert against is not None
        found = decided.is_found[chosen]
        by_folder[label] = {"num_images": len(found), "num_found": int(found.sum()), "auroc": against.auroc}
    return {
        "num_normal": int(is_normal.sum()),
        "num_anomalous": int(decided.is_anomalous.sum()),
        "num_normal_found": int((decided.is_found & is_normal).sum()),
        "f1": f1_score(decided.is_found, decided.is_anomalous),
        "folders": by_folder,
        "scores": {
            name: {"auroc": curve.auroc, "average_precision": curve.average_precision, "best_f1": curve.best_f1}
            for name, curve in decided.curves.items()
        },
    }


# ---------------------------------------------------------------- heat maps


def _groups(decided: _Decided, order: NDArray[np.intp]) -> dict[str, list[int]]:
    """The images that are shown, by what they show."""
    groups = {"The most anomalous": order[:_NUM_SHOWN].tolist()}
    if decided.curves:
        is_missed = decided.is_anomalous & ~decided.is_found
        is_false = decided.is_found & ~decided.is_anomalous
        groups["Missed: anomalous by their folder, but below the threshold"] = _first(order[::-1], is_missed)
        groups["False alarms: normal by their folder, but above the threshold"] = _first(order, is_false)
    return {title: places for title, places in groups.items() if places}


def _first(order: NDArray[np.intp], chosen: NDArray[np.bool_]) -> list[int]:
    return list(islice((place for place in order.tolist() if chosen[place]), _NUM_MISTAKES))


def _shown(search: Search, decided: _Decided, places: Sequence[int], progress: Progress) -> Iterator[Shown]:
    """Images with their heat maps; one that cannot be read any more is left out."""
    chosen = set(search.in_combined())
    for place in places:
        progress.advance()
        path = search.source.path(search.names[place])
        try:
            original = load_image(path, search.checkpoint.preprocessing)
            (judged,) = search.judge.judge(torch.from_numpy(original).permute(2, 0, 1)[None], [path])
        except ImageRejected:
            continue
        heat = heat_map(
            search.judge,
            {name: positions for name, positions in judged.places.items() if name in chosen},
            search.held_back,
            search.checkpoint.preprocessing,
        )
        score = float(decided.scores[COMBINED][place])
        yield Shown(search.names[place], score, bool(decided.is_found[place]), original, heat)


def heat_map(
    judge: Judge, places: Mapping[str, Positions], normal: Mapping[str, Values], preprocessing: Preprocessing
) -> NDArray[np.float32]:
    """(H, W) of one judged image: 1 is as high as the strangest place of a normal image typically is.

    The mean over the scores that say where, each by its median over the held-back normal images.
    """
    maps = []
    for name, positions in places.items():
        typical = float(np.median(normal[name])) or 1.0
        distances = torch.where(positions.counts, judge.relative_to_image(positions) / typical, 0.0)
        fit = _fitted if name.startswith(PIXELS) else _stretched  # the latter come from the model's picture
        maps.append(fit(distances, preprocessing))
    heat: NDArray[np.float32] = torch.stack(maps).mean(dim=0).numpy()
    return heat


def _stretched(distances: torch.Tensor, preprocessing: Preprocessing) -> torch.Tensor:
    return _resized(distances, preprocessing.height, preprocessing.width)


def _fitted(distances: torch.Tensor, preprocessing: Preprocessing) -> torch.Tensor:
    """A map (rows, columns) of the whole file to where the model's picture (H, W) shows it."""
    if preprocessing.resize_mode == "stretch":
        return _stretched(distances, preprocessing)
    scales = preprocessing.height / distances.shape[0], preprocessing.width / distances.shape[1]
    scale = min(scales) if preprocessing.resize_mode == "pad" else max(scales)
    whole = _resized(distances, *(max(1, round(length * scale)) for length in distances.shape))
    down, across = preprocessing.height - whole.shape[0], preprocessing.width - whole.shape[1]
    # What is missing is added around it, what is too much (less than nothing is missing) is cut off.
    return functional.pad(whole, (across // 2, across - across // 2, down // 2, down - down // 2))


def _resized(distances: torch.Tensor, height: int, width: int) -> torch.Tensor:
    return functional.interpolate(distances[None, None], [height, width], mode="bilinear", align_corners=False)[0, 0]
