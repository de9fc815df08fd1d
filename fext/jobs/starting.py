"""What the weights of a new model start from: a seed, ImageNet, or components and patches of the training images."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from fext.compute.device import Computation, free_memory, num_local_processes
from fext.compute.optimization import values_per_weight
from fext.data.dataset import ImageStream
from fext.data.images import Preprocessing
from fext.data.source import ImageSource
from fext.errors import CheckpointError, ModelError, SettingsError
from fext.jobs.forecast import readable_size
from fext.jobs.linear import readable
from fext.model.autoencoder import Autoencoder, build_autoencoder, num_parameters
from fext.model.linear_map import LinearMap
from fext.model.linear_path import LinearPathDecoder, LinearPathEncoder, start_at_components
from fext.model.patch_responses import PatchLearner
from fext.model.picture_start import num_pictures_to_start_from, start_from_pictures
from fext.model.plans import CustomStages, Plan, has_linear_path, make_plan
from fext.model.views import weight_of_views
from fext.reporting import Reporter
from fext.settings import Settings, setting_infos
from fext.store.checkpoints import Checkpoint, load_encoder_start
from fext.store.pretrained import imagenet_encoder_weights

_ENOUGH_FOR_COMPONENTS = 2000  # images: 128,000 squares of 256x256 pictures for directions of 3,072 values
_ENOUGH_FOR_ANSWERS = 500
_BATCH_SIZE = 16


def plan_of(settings: Settings) -> Plan:
    """The plan that the settings ask for; raises ModelError where it cannot be, SettingsError where they disagree."""
    plan = make_plan(
        settings.architecture,
        settings.picture_shape,
        latent_channels=settings.latent_channels,
        linear_shortcut=settings.linear_shortcut,
        picture_channels=settings.picture_channels,
        dropout_rate=settings.dropout_rate,
        custom=CustomStages(
            filters=settings.filters,
            layers_per_block=settings.layers_per_block,
            kernel_size=settings.kernel_size,
            strides=settings.strides,
            pooling=settings.pooling,
            activation=settings.activation,
            last_activation=settings.last_activation,
            normalization=settings.batch_normalization,
            embedding=settings.dims if settings.mlp_bottleneck else (),
        ),
    )
    if settings.encoder_weights == "imagenet":
        _refuse_without_imagenet_weights(settings)
    if "bce" in settings.loss and not plan.is_bounded:
        remedy = "linear_shortcut to False" if plan.block == "patch" else "last_activation to 'sigmoid'"
        raise SettingsError(
            f"loss = {settings.loss!r}: bce wants reconstructions that end in a sigmoid: set {remedy}, or choose "
            f"another loss"
        )
    return plan


def refuse_contradictions(settings: Settings) -> None:
    """Raise SettingsError where two settings of training cannot both be meant."""
    if settings.warmup_epochs > settings.epochs:
        raise SettingsError(
            f"warmup_epochs = {settings.warmup_epochs} is more than epochs = {settings.epochs}: the learning rate "
            f"would rise to the end; set it to {settings.epochs} at most"
        )
    if settings.gradient_accumulation > settings.batch_size:
        raise SettingsError(
            f"gradient_accumulation = {settings.gradient_accumulation} is more than batch_size = "
            f"{settings.batch_size}: a part of a batch holds one image at least"
        )


def say_unused(settings: Settings, reporter: Reporter) -> None:
    """Name the settings that differ from their defaults and are of no effect with the architecture chosen."""
    categories = ("custom",) if settings.architecture != "custom" else ()
    names = [info.name for info in setting_infos() if info.category in categories]
    names += ["latent_channels"] if settings.architecture in ("cifar", "custom") else []
    has_path = has_linear_path(settings.architecture, settings.linear_shortcut)
    names += [] if has_path else ["picture_channels"]
    names += ["views_weight"] if has_path and settings.views_weight else []
    default = Settings()
    if unused := [name for name in names if getattr(settings, name) != getattr(default, name)]:
        reporter.warning(f"of no effect with architecture = {settings.architecture!r}: {', '.join(unused)}")
    if weight_of_views(settings) and settings.batch_size < 2 * settings.gradient_accumulation:
        reporter.warning(
            "views_weight is of no effect on an image that is computed alone: choose a larger batch_size or a lower "
            "gradient_accumulation"
        )


def refuse_single_values(plan: Plan, settings: Settings, num_train: int) -> None:
    """Raise SettingsError where batch normalization would meet one value alone, of which there is no spread."""
    if plan.least_normalized == 1:
        cause, remedy = f"picture_shape = {settings.picture_shape}", "larger pictures"
    elif settings.rotation_weight and plan.latent_shape[:2] == (1, 1):  # what tells turns normalizes the latent
        cause, remedy = f"rotation_weight = {settings.rotation_weight}", "set rotation_weight to 0"
    else:
        return
    for batch_size in {min(settings.batch_size, num_train), num_train % settings.batch_size}:
        num_parts = min(settings.gradient_accumulation, max(batch_size, 1))
        if batch_size // num_parts == 1:
            raise SettingsError(
                f"with {cause} batch normalization sees one value of each image, and a batch (or a part of it, by "
                f"gradient_accumulation) of {num_train} images would be one image: choose another batch_size, or "
                f"{remedy}"
            )


def refuse_larger_than_memory(plan: Plan, settings: Settings, computation: Computation) -> None:
    """Raise ModelError where the free memory cannot hold what training keeps of the weights alone.

    The system would end such a run without a word. What lies between the layers comes on top, and is not known before.
    """
    if computation.device.type == "cuda":
        return
    num_weights = num_parameters(plan)
    needed = torch.float32.itemsize * num_weights * values_per_weight(settings) * num_local_processes()
    if needed > (free := free_memory()):
        raise ModelError(
            f"a model of {num_weights:,} parameters takes {readable_size(needed)} of memory to train, and "
            f"{readable_size(free)} is free: let it have fewer (smaller pictures, more strides or pooling, smaller "
            f"filters or dims), or train it elsewhere"
        )


def _refuse_without_imagenet_weights(settings: Settings) -> None:
    fits = (
        settings.architecture in ("vgg16", "vgg16_bn")
        and settings.latent_channels == 512
        and settings.picture_shape[2] == 3
    )
    if not fits:
        raise SettingsError(
            "encoder_weights = 'imagenet' goes with architecture 'vgg16' or 'vgg16_bn', latent_channels = 512 and "
            "colour pictures: change those, or set encoder_weights to 'images'"
        )


@dataclass(frozen=True)
class TrainImages:
    """The images that a model is trained on, to be read before training."""

    source: ImageSource
    names: tuple[str, ...]
    preprocessing: Preprocessing
    num_processors: int
    reporter: Reporter

    def some(self, most: int) -> tuple[str, ...]:
        """At most so many names, evenly spaced."""
        return self.names[:: -(-len(self.names) // most)]

    def batches(self, title: str, names: tuple[str, ...]) -> Iterator[torch.Tensor]:
        """Those that can be read, in batches (N, C, H, W); raises SourceError where their folder is gone."""
        stream = ImageStream(
            self.source.root,
            names,
            self.preprocessing,
            batch_size=_BATCH_SIZE,
            num_processors=self.num_processors,
        )
        return readable(self.source, names, stream, title, self.reporter)


def start_model(plan: Plan, settings: Settings, images: TrainImages) -> Autoencoder:
    """A new model on the CPU, with the weights that it starts from.

    Raises ModelError where ImageNet's weights cannot be had, SourceError where the folder of the images is gone.
    """
    model = build_autoencoder(plan, settings.seed)
    if settings.encoder_weights == "imagenet":
        model.encoder.load_state_dict(imagenet_encoder_weights(settings.architecture))
    if isinstance(model.encoder, LinearPathEncoder) and isinstance(model.decoder, LinearPathDecoder):
        _start_from_images(model.encoder, model.decoder, plan, settings.seed, images)
    elif learns_start(plan, settings):
        names = images.some(num_pictures_to_start_from(plan))
        pictures = list(images.batches("learning where to start", names))
        start_from_pictures(model, pictures, settings.seed)
    return model


def learns_start(plan: Plan, settings: Settings) -> bool:
    """Whether the encoder starts from the training images alone, and so cannot be made again without them."""
    return settings.encoder_weights == "images" and plan.block == "plain"


def _start_from_images(
    encoder: LinearPathEncoder, decoder: LinearPathDecoder, plan: Plan, seed: int, images: TrainImages
) -> None:
    """Learn the linear path, and the patches whose answers tell what a picture shows."""
    names, responses = images.some(_ENOUGH_FOR_COMPONENTS), encoder.responses
    rows, columns, _ = plan.latent_shape
    linear_map = LinearMap(plan.picture_shape, (rows, columns, plan.components))
    patches = PatchLearner(responses, len(names), seed) if responses else None
    for batch in images.batches("learning components and patches", names):
        linear_map.learn(batch)
        if patches:
            patches.learn(batch)
    linear_map.finish()
    start_at_components(encoder, decoder, linear_map)
    if responses and patches:
        patches.finish()
        responses.scale_to(images.batches("learning the answers to patches", images.some(_ENOUGH_FOR_ANSWERS)))


def model_before_training(checkpoint: Checkpoint, linear_map: LinearMap | None, reporter: Reporter) -> Autoencoder:
    """The model as its training started: at random weights, at what images taught before, or at ImageNet's weights.

    What images taught a plain encoder is kept with the checkpoint.
    Of the components those that the latent has channels for will do: what sees more of them starts at nothing. Patches
    are learned before training and stay as they are.
    Without a linear map a linear path starts at random weights.
    """
    settings = checkpoint.settings
    model = build_autoencoder(checkpoint.plan, settings.seed).eval()
    encoder, decoder = model.encoder, model.decoder
    if linear_map and isinstance(encoder, LinearPathEncoder) and isinstance(decoder, LinearPathDecoder):
        start_at_components(encoder, decoder, linear_map)
    trained = checkpoint.model.encoder
    if isinstance(encoder, LinearPathEncoder) and isinstance(trained, LinearPathEncoder):
        encoder.take_shown(trained)
    try:
        if settings.encoder_weights == "imagenet":
            encoder.load_state_dict(imagenet_encoder_weights(settings.architecture))
        elif learns_start(checkpoint.plan, settings):
            encoder.load_state_dict(load_encoder_start(checkpoint.folder, encoder.state_dict()))
    except (CheckpointError, ModelError) as error:
        reporter.warning(f"the encoder before training is taken at random weights: {error}")
    return model
