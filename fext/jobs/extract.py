"""Extraction: every image of a source becomes one row of features, or one line that says why not.

The story is the same whether a run is the first, goes on after a stop or meets a folder that changed: see what is done,
encode what is not, merge. Under torchrun each process encodes a block of it, and the first one plans and merges.
"""

import json
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

import fext
from fext.compute.device import keeping_freed_memory
from fext.compute.memory import LESS_TO_EXTRACT, lowering
from fext.compute.processes import Processes, join_processes
from fext.data.names import Names
from fext.data.source import ImageSource, find_images
from fext.errors import ExtractionError, SourceError
from fext.jobs.choosing import WHERE_TO_GET_IMAGES
from fext.jobs.encoding import Results, encode, refuse_mostly_not_finite
from fext.jobs.extraction import Extraction, Ways, choose_extraction, differing_ways, join_extraction
from fext.jobs.forecast import Forecast, Work
from fext.reporting import Progress, Reporter, counted
from fext.settings import Settings, settings_from_json
from fext.store import extractions
from fext.store.checkpoints import Checkpoint, load_checkpoint
from fext.store.extractions import Description, Merged, Plan
from fext.store.locks import locked
from fext.store.tables import table_files
from fext.store.workspace import Workspace

_MAX_REPAIRS = 3
_GRIDS = (8, 4, 2, 1)


@dataclass(frozen=True)
class ExtractionResult:
    """What an extraction came to; num_found = num_written + num_rejected.

    Of the images found, num_kept stood as they were, num_unproven were done by an earlier version, which kept no
    checksum of files, and num_tried_again had been rejected for what may have passed; num_removed is how many have left
    the source since. The rate is of the images that were looked at.
    """

    name: str
    folder: Path
    files: tuple[str, ...]
    num_found: int
    num_written: int
    num_rejected: int
    num_not_images: int
    num_kept: int
    num_new: int
    num_changed: int
    num_unproven: int
    num_tried_again: int
    num_removed: int
    num_features: int
    seconds: float
    images_per_second: float


@lowering(LESS_TO_EXTRACT)
@keeping_freed_memory()
def extract(
    workspace: Workspace,
    settings: Settings,
    folder: Path,
    images: Path | None,
    name: str | None,
    reporter: Reporter,
    ways: Ways = "stop",
) -> ExtractionResult | None:
    """Encode the images of a folder or list with a checkpoint, and write the table of features.

    Goes on with the extraction there is of the same checkpoint, source and settings: only what is new or has changed
    is encoded. Without `images`, the source is inference/images where it holds images, else data/images. Under torchrun
    only the first process has a result. Raises CheckpointError, SourceError, DeviceError, ReaderDiedError,
    ProcessGroupError, OtherWayError where this machine computes in another way than it was begun and `ways` does not
    say what to do, and ExtractionError where the name is another extraction's, the grid does not fit, or the disk is
    too small.
    """
    processes = join_processes()
    checkpoint = load_checkpoint(folder)
    if not processes.is_first:
        _help(checkpoint, processes, reporter)
        return None
    started = time.perf_counter()
    source = find_images(images, reporter) if images is not None else default_source(workspace, reporter)
    if not source.names:
        raise SourceError(f"{source.describe_empty()}: {WHERE_TO_GET_IMAGES}")
    extraction = choose_extraction(workspace, settings, checkpoint, source, name, ways)
    in_use = f"inference/{extraction.folder.name} is being worked on by another process: wait for it, or stop it"
    with locked(extraction.folder, ExtractionError(in_use)):
        return _Run(extraction, processes, reporter, started, ways).go()


def default_source(workspace: Workspace, reporter: Reporter) -> ImageSource:
    """inference/images where it holds images, else data/images."""
    for folder in (workspace.inference_images, workspace.images):
        if folder.is_dir():
            source = find_images(folder, reporter)
            if source.names:
                return source
    raise SourceError(
        f"there are no images in {workspace.inference_images} nor in {workspace.images}: {WHERE_TO_GET_IMAGES}"
    )


@dataclass
class _Run:
    """One run of the first process."""

    extraction: Extraction
    processes: Processes
    reporter: Reporter
    started: float
    ways: Ways
    engine_start_seconds: float = 0.0

    def go(self) -> ExtractionResult:
        extraction = self.extraction
        before = extractions.describe(extraction.folder)
        anew = before is not None and self.ways == "anew" and self._is_other(before)
        goes_on = before is not None and not anew
        start = extractions.begin(extraction.folder, extraction.description(), anew=anew)
        extraction = self._with_unreachable()
        by_contents = extraction.settings.check_contents
        plan = extractions.plan_work(
            extraction.folder, start, extraction.source, extraction.columns, by_contents, self.reporter
        )
        self._say(plan, goes_on=goes_on, anew=anew)
        formats = extractions.all_formats(extraction.folder, extraction.columns, extraction.settings.feature_formats)
        if plan.changes_nothing and extractions.is_whole(
            extraction.folder, extraction.columns, formats, len(extraction.source)
        ):
            self._tell_others(start, 0)
            if plan.num_seen:
                extractions.write_seen(extraction.folder, extraction.source.names, extraction.columns)
            else:
                extractions.leave(extraction.folder)
            self.reporter.message("nothing is new: the table is as it was")
        else:
            self._encode(start, plan, formats)
            self._merge(start + 1, plan, formats)
        return self._result(plan, formats)

    def _with_unreachable(self) -> Extraction:
        """The extraction with the images, done before, whose folders cannot be read now: their rows stay."""
        extraction = self.extraction
        unreachable = extractions.unreachable(extraction.folder, extraction.source, extraction.columns)
        if unreachable:
            self.reporter.warning(
                f"{counted(len(unreachable), 'image')} done before, in folders that cannot be read now: kept as before"
            )
            self.extraction = replace(extraction, source=extraction.source.with_names(unreachable))
        return self.extraction

    def _is_other(self, before: Description) -> bool:
        """Whether rows were made in several ways, or in another one than new ones will be."""
        differs = differing_ways(before["computed_by"], self.extraction.computed_by())
        return bool(differs) or len(before.get("ways", [])) > 1

    def _say(self, plan: Plan, *, goes_on: bool, anew: bool) -> None:
        extraction = self.extraction
        self.reporter.message(
            f"extracting {len(extraction.source)} images x {extraction.columns.num_features:,} features with "
            f"{extraction.checkpoint.name}, {extraction.describe()}"
        )
        if anew:
            self.reporter.message(
                f"encoding all of inference/{extraction.folder.name} anew; its table stays until the new one is whole"
            )
        if goes_on:
            counts = {
                "done": plan.num_kept,
                "new": plan.num_new,
                "changed": plan.num_changed,
                "without a checksum": plan.num_unproven,
                "to try again": plan.num_tried_again,
                "removed": plan.num_removed,
            }
            parts = [f"{count} {what}" for what, count in counts.items() if count or what == "done"]
            self.reporter.message(f"going on with inference/{extraction.folder.name}: {', '.join(parts)}")
        if plan.num_seen:
            self.reporter.message(
                f"({counted(plan.num_seen, 'file')} touched, copied or moved: the contents are the same)"
            )
        if plan.num_unproven:
            self.reporter.message(
                f"(an earlier version kept no checksum of {counted(plan.num_unproven, 'file')}, so that nothing proves "
                f"that they are the same: encoded anew, this once)"
            )

    def _encode(self, start: int, plan: Plan, formats: tuple[str, ...]) -> None:
        if not plan.todo:
            self._tell_others(start, 0)
            return
        extraction = self.extraction
        names = extraction.source.names
        if len(plan.todo) < len(names):
            names = names.select(plan.todo)
        asked = extraction.settings.feature_grid
        work = Work(
            extraction.folder, extraction.columns, formats, len(extraction.source), len(names), self.processes.count,
            tuple(grid for grid in _GRIDS if grid <= asked),
        )  # fmt: skip
        forecast = Forecast(work, self.reporter)
        own, *others = _blocks(names, self.processes.count)
        extractions.write_blocks(extraction.folder, start, others)
        self._tell_others(start, len(names))
        with self.reporter.progress("extracting", len(names)) as progress:
            counter = _Counter(self.processes, progress)

            def after_batch(results: Results) -> None:
                forecast.see(results)
                counter.add(results)

            self.engine_start_seconds = encode(extraction, own, (start, 0), self.reporter, after_batch)
            for rank in range(1, self.processes.count):
                self.processes.hear(f"done {rank}", lambda: counter.add([]))

    def _tell_others(self, start: int, num_todo: int) -> None:
        extraction = self.extraction
        words = {
            "folder": str(extraction.folder),
            "location": str(extraction.source.location),
            "root": str(extraction.source.root),
            "start": start,
            "num_todo": num_todo,
            "description": extraction.description(),
        }
        self.processes.tell("work", json.dumps(words))

    def _merge(self, start: int, plan: Plan, formats: tuple[str, ...]) -> None:
        """Merge; rows that turn out to be damaged are encoded again first."""
        extraction = self.extraction
        for repair in range(_MAX_REPAIRS):
            with self.reporter.progress("writing the table", len(extraction.source)) as progress:
                merged = extractions.merge(
                    extraction.folder,
                    extraction.source.names,
                    extraction.columns,
                    formats,
                    progress.advance,
                    lambda merged: self._manifest(merged, plan, formats),
                )
            if not merged.damaged:
                return
            count = len(merged.damaged)
            what = "1 row written before is damaged" if count == 1 else f"{count} rows written before are damaged"
            self.reporter.warning(f"{what}: encoded again")
            names = Names.of(merged.damaged)
            with self.reporter.progress("extracting", len(names)) as progress:
                encode(
                    extraction,
                    names,
                    (start + repair, 0),
                    self.reporter,
                    _Counter(Processes(), progress).add,
                )
        raise ExtractionError(f"{extraction.folder} does not keep what is written to it: the disk may be damaged")

    def _manifest(self, merged: Merged, plan: Plan, formats: tuple[str, ...]) -> dict[str, Any]:
        refuse_mostly_not_finite(self.extraction, merged.num_written, merged.num_not_finite)
        seconds = time.perf_counter() - self.started
        return (
            self.extraction.description()
            | self._ways(merged)
            | {
                "formats": formats,
                "counts": {
                    "found": len(self.extraction.source),
                    "written": merged.num_written,
                    "rejected": merged.num_rejected,
                    "not_images": self.extraction.source.num_not_images,
                },
                "images_sha256": merged.images_sha256,
                "left_out": {
                    "of_the_system": self.extraction.source.num_system,
                    "unreadable_folders": self.extraction.source.unreadable,
                },
                "last_run": {
                    "encoded": len(plan.todo),
                    "processes": self.processes.count,
                    "seconds": round(seconds, 3),
                    "engine_start_seconds": round(self.engine_start_seconds, 3),
                    "images_per_second": round(len(plan.todo) / seconds, 3),
                    "fext": fext.__version__,
                    "torch": torch.__version__,
                },
            }
        )

    def _ways(self, merged: Merged) -> dict[str, Any]:
        """The way in which the newest rows were made; where there are several ways, all of them."""
        found = extractions.ways_of_rows(self.extraction.folder, merged)
        if not found:
            return {}
        if len(found) > 1:
            told = ", ".join(f"{'some' if way['rows'] is None else way['rows']} {_way_words(way)}" for way in found)
            self.reporter.message(f"its rows were made in {len(found)} ways ({told}): they differ by rounding")
            return {"computed_by": found[-1]["computed_by"], "ways": found}
        return {"computed_by": found[0]["computed_by"]}

    def _result(self, plan: Plan, formats: tuple[str, ...]) -> ExtractionResult:
        extraction = self.extraction
        counts = extractions.read_manifest(extraction.folder)["counts"]
        seconds = time.perf_counter() - self.started
        return ExtractionResult(
            name=extraction.folder.name,
            folder=extraction.folder,
            files=tuple(table_files(name, extraction.columns)[0] for name in formats),
            num_found=counts["found"],
            num_written=counts["written"],
            num_rejected=counts["rejected"],
            num_not_images=extraction.source.num_not_images,
            num_kept=plan.num_kept,
            num_new=plan.num_new,
            num_changed=plan.num_changed,
            num_unproven=plan.num_unproven,
            num_tried_again=plan.num_tried_again,
            num_removed=plan.num_removed,
            num_features=extraction.columns.num_features,
            seconds=seconds,
            images_per_second=len(plan.todo) / seconds,
        )


def _way_words(way: dict[str, Any]) -> str:
    made = way["computed_by"]
    return f"by {made['engine']} {made['engine_version']} on {made['device']} in {made['precision']}"


class _Counter:
    """Shows on one bar what all processes have done."""

    def __init__(self, processes: Processes, progress: Progress) -> None:
        self._processes, self._progress = processes, progress
        self._num_shown = 0

    def add(self, results: Results) -> None:
        """Count a batch of this process; also the place where a stop is noticed."""
        count = len(results)
        done = self._processes.add("images done", count) if self._processes.count > 1 else self._num_shown + count
        if self._processes.is_first:
            self._progress.advance(done - self._num_shown)
            self._num_shown = done
        else:
            self._progress.advance(count)


def _help(checkpoint: Checkpoint, processes: Processes, reporter: Reporter) -> None:
    """Encode the block of a process that is not the first."""
    with reporter.progress("extracting", 0) as progress:
        words = json.loads(processes.hear("work", lambda: progress.advance(0)))
        if words["num_todo"]:
            extraction = _same_here(words, checkpoint)
            counter = _Counter(processes, progress)
            start, rank = words["start"], processes.rank
            names = extractions.read_block(extraction.folder, start, rank)
            encode(extraction, names, (start, rank), reporter, counter.add)
        processes.tell(f"done {processes.rank}", "")


def _same_here(words: dict[str, Any], checkpoint: Checkpoint) -> Extraction:
    """The extraction of the first process; raises ExtractionError where this one would compute it in another way."""
    description = words["description"]
    settings = settings_from_json(json.dumps(description["settings"]), "the first process")
    source = ImageSource(Path(words["location"]), Path(words["root"]), Names([]), 0)
    return join_extraction(Path(words["folder"]), settings, checkpoint, source, description)


def _blocks(names: Names, count: int) -> list[Names]:
    """Names divided into contiguous blocks of about the same length, one for each process."""
    if count == 1:
        return [names]
    return [names[len(names) * rank // count : len(names) * (rank + 1) // count] for rank in range(count)]
