"""What TensorBoard gets to see of a training run: its steps, its epochs, its settings and its latents."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from fext.compute.inference import encode
from fext.compute.training import LATENT_EDGES, Step, some_values
from fext.data.dataset import ImageStream
from fext.data.labels import label_of
from fext.data.split import ChosenBy
from fext.jobs.training_state import Run, State
from fext.model.autoencoder import Autoencoder
from fext.pictures.plain import as_picture
from fext.pictures.sprite import THUMBNAIL_SIDE, sprite_sheet, thumbnail
from fext.settings import Settings, setting_infos
from fext.store import checkpoints
from fext.store.projector import Embedding, write_projector
from fext.store.tracking import Histogram, TensorBoardTracker

_FOLDER = "tensorboard"
_NUM_TRACKED_PICTURES = 6
_MAX_POINTS = 200  # of each curve over steps, in an epoch
_MAX_WEIGHTS = 64  # layers whose weights are shown
_NUM_WEIGHTS_COUNTED, _NUM_BINS = 65536, 64  # of each layer
_MAX_LATENTS = 250  # images of each subset
_NO_LABEL = "none"
_SHAPING = ("data", "model", "training", "general")  # categories of the settings that a run is compared by


class Tracking:
    """Tells TensorBoard of a run as it goes; of one that is not to be shown, nothing."""

    def __init__(self, run: Run, state: State, tracker: TensorBoardTracker | None) -> None:
        self._run, self._state, self._tracker = run, state, tracker
        self._num_batches = _num_batches(run)
        self._stride = -(-self._num_batches // _MAX_POINTS)
        self.begin_epoch()

    def begin_epoch(self) -> None:
        """Let the time of the first images run."""
        self._num_images, self._since = 0, time.perf_counter()
        self._pairs: list[torch.Tensor] = []  # originals above reconstructions, (C, 2H, W)

    def step(self, step: Step) -> None:
        """Note a step of training, or one of so many; its rate is the mean since the last one that was noted."""
        self._num_images += step.num_images
        if self._tracker is None or self._state.train.num_batches % self._stride:
            return
        now = time.perf_counter()
        values = {"loss": step.loss, "learning_rate": step.learning_rate}
        values["images_per_second"] = self._num_images / max(now - self._since, 1e-9)
        if step.gradient_norm is not None:
            values["gradient_norm"] = step.gradient_norm
        self._tracker.step(values, len(self._state.history) * self._num_batches + self._state.train.num_batches)
        self._num_images, self._since = 0, now

    def validation_batch(self, images: torch.Tensor, reconstructions: torch.Tensor) -> None:
        """Keep the first images of a validation pass to be shown; of one that goes on, the first from there."""
        missing = _NUM_TRACKED_PICTURES - len(self._pairs)
        if self._tracker is not None and missing > 0:
            pairs = torch.cat([images[:missing].float(), reconstructions[:missing].clamp(0, 1)], dim=2)
            self._pairs += pairs.cpu()

    def flush(self) -> None:
        """Write the steps so far: they are to be there before the state that they lead to is kept."""
        if self._tracker is not None:
            self._tracker.flush()

    def epoch(self) -> None:
        """Note the last epoch of the history, whose passes the state still holds."""
        if self._tracker is None:
            return
        epoch = len(self._state.history)
        self._tracker.flush()
        side = self._run.split.chosen_by
        self._tracker.scalars(_scalars(self._state, side), epoch)
        self._tracker.histograms(_histograms(self._run.judged, self._state, side), epoch)
        if self._pairs:
            sheet = as_picture(torch.cat(self._pairs, dim=2).permute(1, 2, 0).numpy())
            self._tracker.picture(f"{side} images above their reconstructions", sheet, epoch)

    def finish(self) -> None:
        """Note that the run has come to its end."""
        if self._tracker is not None:
            self._tracker.finish()


@contextmanager
def tracking(run: Run, state: State) -> Iterator[Tracking]:
    """Track a run from where it stands, where the settings say so; of several processes, in the first one."""
    if not _is_tracked(run):
        yield Tracking(run, state, None)
        return
    num_epochs = len(state.history)
    num_steps = num_epochs * _num_batches(run) + state.train.num_batches
    tracker = TensorBoardTracker(run.folder / _FOLDER, num_epochs, num_steps)
    try:
        tracker.hyperparameters(run.folder.name, _hyperparameters(run.settings))
        if not tracker.has_graph:
            _track_graph(run, tracker)
        yield Tracking(run, state, tracker)
    finally:
        tracker.close()


def _num_batches(run: Run) -> int:
    """Steps of an epoch."""
    return -(-len(run.split.train) // run.settings.batch_size)


def _is_tracked(run: Run) -> bool:
    return run.settings.use_tensorboard and run.processes.is_first


def _track_graph(run: Run, tracker: TensorBoardTracker) -> None:
    height, width, channels = run.preprocessing.shape
    run.model.eval()
    try:
        tracker.graph(run.model, torch.zeros(1, channels, height, width, device=run.computation.device))
    except RuntimeError as error:  # the graph is an extra: where torch cannot trace it, training goes on
        run.reporter.warning(f"TensorBoard gets no graph: {str(error).splitlines()[0]}")


def _hyperparameters(settings: Settings) -> dict[str, bool | int | float | str]:
    categories = {*_SHAPING, *(["custom"] if settings.architecture == "custom" else [])}
    names = [info.name for info in setting_infos() if info.category in categories]
    values = {name: getattr(settings, name) for name in names}
    return {name: value if isinstance(value, bool | int | float) else str(value) for name, value in values.items()}


def _scalars(state: State, side: ChosenBy) -> dict[str, float]:
    """The last epoch's, and under 'best' those of the epoch whose weights are kept."""
    row, best = state.history[-1], state.history[state.best_epoch - 1]
    scores, subsets = ("loss", "mse", "mae", "psnr"), ("train", side)
    values = {f"{score}/{subset}": row[f"{subset}_{score}"] for score in scores for subset in subsets}
    for name in ("learning_rate", "gradient_norm", "dead_channels", "waiting_seconds", "images_per_second"):
        values[name] = row[name]
    values |= {f"features/{name}": row[name] for name in checkpoints.FEATURE_COLUMNS}
    values |= {f"best/{subset}_{score}": best[f"{subset}_{score}"] for score in ("loss", "psnr") for subset in subsets}
    values["best/epoch"] = state.best_epoch
    return values


def _histograms(model: Autoencoder, state: State, side: ChosenBy) -> dict[str, Histogram]:
    """Of each layer's weights, and of the latents of the images that the epoch is chosen by."""
    layers = [(name, weights) for name, weights in model.named_parameters() if weights.ndim > 1]
    layers = layers[:: -(-len(layers) // _MAX_WEIGHTS)]
    found = {f"weights/{name.removesuffix('.weight')}": _weight_histogram(weights) for name, weights in layers}
    # What lies beyond the edges is counted up to the least and the greatest value there is.
    seen = state.validation
    low, high = min(*seen.latent_low, LATENT_EDGES[0]), max(*seen.latent_high, LATENT_EDGES[-1])
    found[f"latents/{side}"] = Histogram(np.asarray(seen.latent_counts), np.array([low, *LATENT_EDGES, high]))
    return found


def _weight_histogram(weights: torch.Tensor) -> Histogram:
    values = some_values(weights.detach(), _NUM_WEIGHTS_COUNTED).float().cpu().numpy()
    return Histogram(*np.histogram(values[np.isfinite(values)], bins=_NUM_BINS))


def track_latents(run: Run, state: State) -> None:
    """Show what the weights of the best epoch make of test and train images, in TensorBoard's projector.

    A vector holds the mean of each latent channel. Raises FextError where it cannot be written.
    """
    if not _is_tracked(run):
        return
    test, train = (names[:: -(-len(names) // _MAX_LATENTS)] for names in (run.split.test, run.split.train))
    names, subsets = test + train, ["test"] * len(test) + ["train"] * len(train)
    vectors, thumbnails, shown = _encode(run, names)
    words = [(names[place], subsets[place], label_of(names[place]) or _NO_LABEL) for place in shown]
    if len(shown) < len(names):
        run.reporter.warning(f"TensorBoard shows no latents of {len(names) - len(shown)} images that cannot be read")
    if not shown:
        return
    title = f"latents of epoch {state.best_epoch}, mean of each channel"
    embedding = Embedding(title, vectors, words, sprite_sheet(thumbnails), THUMBNAIL_SIDE)
    write_projector(run.folder / _FOLDER, embedding)


def _encode(run: Run, names: Sequence[str]) -> tuple[NDArray[np.float32], list[Image.Image], list[int]]:
    """Vectors and thumbnails of those images that can be read, and their places among the names."""
    model = checkpoints.load_checkpoint(run.folder).model
    run.computation.place(model)
    batch_size = min(run.settings.inference_batch_size, len(names))
    checksums = [run.checksums[name] for name in names]
    stream = ImageStream(
        run.source.root, names, run.preprocessing, batch_size=batch_size, num_processors=1, checksums=checksums
    )
    vectors: list[NDArray[np.float32]] = []
    thumbnails: list[Image.Image] = []
    shown: list[int] = []
    with run.reporter.progress("latents for TensorBoard", len(names)) as progress:
        for batch in stream.epoch():
            if batch.files:
                latent = encode(model.encoder, batch.images, run.computation, batch_size=batch_size)
                vectors.append(latent.mean(dim=(2, 3)).numpy())
                thumbnails += [thumbnail(image) for image in batch.images.permute(0, 2, 3, 1).numpy()]
                shown += [file.position for file in batch.files]
            progress.advance(batch.num_files)
    return np.concatenate(vectors) if vectors else np.empty((0, 0), np.float32), thumbnails, shown
