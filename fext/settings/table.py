"""Every setting: its type, default, range and the words that describe it."""

import json
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from fext.settings.checks import (
    CustomSize,
    LossName,
    device_name,
    for_each_stage,
    list_as_tuple,
    odd,
    sorted_names,
    valid_loss,
    valid_shape,
    whole_number,
)

# Names of earlier FeXT versions whose meaning lives on under another name.
RENAMED = {
    "XLA_acceleration": "jit_compile",
    "XLA_state": "jit_compile",
    "ML_model": "architecture",
    "training_epochs": "epochs",
}

# What runs of earlier FeXT did, whose stored settings do not name these.
UNNAMED: dict[str, object] = {"views_weight": 0.0, "encoder_weights": "none"}

# What a run that is resumed may have otherwise than it began: with less of them at a time, less memory suffices.
CHANGEABLE = ("batch_size", "gradient_accumulation", "inference_batch_size")

CATEGORIES = {
    "advanced": "Device, precision and speed",
    "data": "Images and how they become tensors",
    "model": "The autoencoder",
    "custom": 'The autoencoder of architecture = "custom", stage by stage',
    "training": "Pretraining",
    "evaluation": "Evaluation",
    "extraction": "Extraction of features",
    "exploration": "Use of features",
    "general": "Seeds",
}


def _setting(category: str, default: object, description: str, allowed: str, **constraints: Any) -> Any:
    """Declare one setting; `allowed` is what an error message says after 'allowed:'."""
    extra: dict[str, Any] = {"category": category, "allowed": allowed}
    return Field(default=default, description=description, json_schema_extra=extra, **constraints)


class Settings(BaseModel):
    """Every setting of a run: frozen, typed, complete."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)

    # --- advanced
    training_device: Annotated[str, BeforeValidator(device_name), Field(pattern=r"^(auto|CPU|GPU|MPS|cuda:\d+)$")] = (
        _setting(
            "advanced",
            "auto",
            "Where the model runs. 'auto' takes a GPU where there is one, else the CPU; the others stop with a "
            "message where that device is missing.",
            "'auto', 'CPU', 'GPU', 'cuda:N' (such as 'cuda:1') or 'MPS'",
        )
    )
    use_mixed_precision: Literal["auto"] | bool = _setting(
        "advanced",
        "auto",
        "Compute in bfloat16 where that is safe (in float16 on GPUs without it). 'auto' does so where the machine "
        "computes it faster than float32, False is plain float32.",
        "'auto', True or False",
    )
    jit_compile: bool = _setting(
        "advanced",
        False,
        "Compile the model with torch.compile before training. Pays on a GPU in long runs; needs a C++ compiler.",
        "True or False",
    )
    jit_backend: str = _setting(
        "advanced",
        "inductor",
        "The backend of torch.compile, used when jit_compile is True.",
        "a backend that torch.compile lists on this machine, such as 'inductor' or 'aot_eager'",
        min_length=1,
    )
    use_tensorboard: bool = _setting(
        "advanced",
        True,
        "Record training for TensorBoard: curves, pictures, histograms, the graph, the settings and the latents.",
        "True or False",
    )
    num_processors: Literal["auto"] | Annotated[int, Field(ge=1, le=256)] = _setting(
        "advanced",
        "auto",
        "Processes that read and decode images; 1 does it in the main process, in up to four threads. 'auto' takes 1 "
        "when the model runs on the CPU, which is busy enough, up to 8 for a GPU, and all cores to analyze or choose "
        "images. It changes the speed, never the result.",
        "'auto' or a whole number from 1 to 256",
    )
    cache_images: bool = _setting(
        "advanced",
        False,
        "Keep the images of a training run in memory once they are decoded, one byte for each value of picture_shape, "
        "where they take no more than half of what is free. It changes the speed, never the result.",
        "True or False",
    )
    check_contents: bool = _setting(
        "advanced",
        False,
        "Compare the contents of every image with what is remembered of it, not only of one whose size, times or inode "
        "are others. Reads all files; for shares and disks whose times cannot be relied on.",
        "True or False",
    )
    num_threads: Literal["auto"] | Annotated[int, Field(ge=1, le=1024)] = _setting(
        "advanced",
        "auto",
        "Threads that compute and decode on the CPU. 'auto' takes one for each core.",
        "'auto' or a whole number from 1 to 1024",
    )

    # --- data
    picture_shape: Annotated[tuple[int, int, int], BeforeValidator(list_as_tuple), AfterValidator(valid_shape)] = (
        _setting(
            "data",
            (256, 256, 3),
            "Height, width and channels that every image is brought to. The latent is smaller in height and "
            "width: 32 times, 4 times with 'cifar', with 'custom' by its strides and poolings; both must be multiples "
            "of that.",
            "(height, width, channels): height and width from 16 to 4096, channels 3 or 1 (grey)",
        )
    )
    resize_mode: Literal["stretch", "crop", "pad"] = _setting(
        "data",
        "stretch",
        "How an image is brought to picture_shape: 'stretch' changes its proportions, 'crop' cuts the middle, "
        "'pad' adds black borders.",
        "'stretch', 'crop' or 'pad'",
    )
    num_train_samples: int = _setting(
        "data",
        8000,
        "Images for training, chosen by split_seed; num_validation_samples of them are kept from it to choose the "
        "epoch by. Where there are fewer images than num_train_samples + num_test_samples, all are used and divided in "
        "the same proportion.",
        "a whole number from 1",
        ge=1,
    )
    num_validation_samples: Literal["auto"] | Annotated[int, Field(ge=1)] = _setting(
        "data",
        "auto",
        "How many of the num_train_samples images are not trained on, but choose the epoch: that with the lowest loss "
        "on them is kept, and training stops early by them. 'auto' takes a tenth.",
        "'auto' or a whole number from 1, below num_train_samples",
    )
    num_test_samples: int = _setting(
        "data",
        2000,
        "Images to test on. Nothing is learned from them and nothing chosen by them.",
        "a whole number from 1",
        ge=1,
    )
    split: Literal["random", "folders"] = _setting(
        "data",
        "random",
        "'random' divides the images into train, validation and test by split_seed; 'folders' takes those below the "
        "folders train, validation and test, and those for validation out of train where it has no folder. Identical "
        "files never stand on two sides, and near copies only where nearly all images are such.",
        "'random' or 'folders'",
    )
    augmentation: bool = _setting(
        "data",
        True,
        "Vary the training images: mirrored, shifted by up to 6 %, brightness and contrast changed by up to 10 %.",
        "True or False",
    )

    # --- model
    architecture: Literal["vgg16_bn", "vgg16", "redux", "medium", "large", "cifar", "custom"] = _setting(
        "model",
        "vgg16_bn",
        "'vgg16_bn' and 'vgg16': the convolutions of VGG16, with and without batch normalization. 'redux', 'medium' "
        "and 'large': residual models in three sizes, 'redux' many times faster and made for a CPU. 'cifar': for 32x32 "
        "pictures. 'custom': what the settings below say.",
        "'vgg16_bn', 'vgg16', 'redux', 'medium', 'large', 'cifar' or 'custom'",
    )
    latent_channels: int = _setting(
        "model",
        512,
        "Channels of the latent of every architecture but 'cifar', which has 128, and 'custom', whose settings tell.",
        "a whole number from 1 to 4096",
        ge=1,
        le=4096,
    )
    linear_shortcut: bool = _setting(
        "model",
        True,
        "Build 'redux', 'medium' and 'large' around a linear map from squares of 32x32 pixels to the latent and back, "
        "which starts at the principal components of the training images: far better reconstructions, sooner. False "
        "builds them of convolutions from the pixels on.",
        "True or False",
    )
    picture_channels: Literal["auto"] | Annotated[int, Field(ge=1, le=4096)] = _setting(
        "model",
        "auto",
        "How many of the latent_channels carry the picture itself, in a model with a linear shortcut; the others tell "
        "what it shows, by its answers to patches of the training images. More of them make reconstructions better, "
        "fewer of them features. 'auto' is a quarter; as many as latent_channels leaves all to the picture.",
        "'auto' or a whole number from 1 to latent_channels",
    )
    dropout_rate: Literal["auto"] | Annotated[float, Field(ge=0, lt=1)] = _setting(
        "model",
        "auto",
        "Share of the channels that are left out at random after each stage of the encoder while training (Tompson et "
        "al., 2015). 'auto' is 0.2 with 'cifar', else 0.",
        "'auto', or a number from 0, below 1",
    )
    encoder_weights: Literal["images", "none", "imagenet"] = _setting(
        "model",
        "images",
        "What 'vgg16_bn', 'vgg16', 'cifar' and 'custom' start from. 'images': up to 256 training images, patches of "
        "which become filters, and over which each unit is brought to variance 1, in seconds. 'none': random "
        "weights. 'imagenet': torchvision's weights for the encoder of 'vgg16' or 'vgg16_bn', downloaded once.",
        "'images', 'none' or 'imagenet'",
    )
    generate_model_graph: bool = _setting(
        "model", True, "Draw the layers of the model as model_graph.png beside the checkpoint.", "True or False"
    )

    # --- custom
    filters: Annotated[tuple[CustomSize, ...], BeforeValidator(for_each_stage), Field(min_length=1, max_length=12)] = (
        _setting(
            "custom",
            (32, 64, 128, 256),
            "Channels of each stage; how many there are is the number of stages. The latent has those of the last one.",
            "a list of 1 to 12 whole numbers from 1 to 4096",
        )
    )
    layers_per_block: Annotated[
        tuple[Annotated[int, Field(ge=1, le=64)], ...], BeforeValidator(for_each_stage), Field(min_length=1)
    ] = _setting(
        "custom",
        (2,),
        "Convolutions of each stage. Here and below a short list goes on with its last value.",
        "a whole number from 1 to 64, or a list of such",
    )
    kernel_size: Annotated[
        tuple[Annotated[int, Field(ge=1, le=31)], ...],
        BeforeValidator(for_each_stage),
        AfterValidator(odd),
        Field(min_length=1),
    ] = _setting(
        "custom",
        (3,),
        "Height and width of the kernels of each stage.",
        "an odd number from 1 to 31, or a list of such",
    )
    strides: Annotated[
        tuple[Annotated[int, Field(ge=1, le=8)], ...], BeforeValidator(for_each_stage), Field(min_length=1)
    ] = _setting(
        "custom",
        (1,),
        "Step of the first convolution of each stage, which makes the picture that many times smaller.",
        "a whole number from 1 to 8, or a list of such",
    )
    pooling: Annotated[
        tuple[Literal["max", "avg", "no"], ...], BeforeValidator(for_each_stage), Field(min_length=1)
    ] = _setting(
        "custom",
        ("max",),
        "How each stage halves height and width at its end: the largest or the mean of 2x2 values, or not at all.",
        "'max', 'avg' or 'no', or a list of such",
    )
    activation: Literal["relu", "leaky_relu", "elu", "selu", "gelu", "silu", "tanh", "sigmoid"] = _setting(
        "custom",
        "relu",
        "What follows each convolution.",
        "'relu', 'leaky_relu', 'elu', 'selu', 'gelu', 'silu', 'tanh' or 'sigmoid'",
    )
    last_activation: Literal["sigmoid", "linear"] = _setting(
        "custom",
        "sigmoid",
        "What makes the picture of the decoder's last convolution: 'sigmoid' keeps it within [0, 1].",
        "'sigmoid' or 'linear'",
    )
    batch_normalization: bool = _setting(
        "custom", True, "Normalize after each convolution (Ioffe and Szegedy, 2015).", "True or False"
    )
    mlp_bottleneck: bool = _setting(
        "custom",
        False,
        "Put fully connected layers of the sizes in dims between the last stage and the latent, which is then a "
        "vector: extract it with feature_grid = 1.",
        "True or False",
    )
    dims: Annotated[tuple[CustomSize, ...], BeforeValidator(for_each_stage), Field(min_length=1, max_length=12)] = (
        _setting(
            "custom",
            (1000,),
            "Sizes of the fully connected layers; the last one is that of the latent.",
            "a whole number from 1 to 4096, or a list of such",
        )
    )

    # --- training
    epochs: int = _setting("training", 50, "Passes over the training images.", "a whole number from 1", ge=1)
    batch_size: int = _setting(
        "training",
        8,
        "Images per training step. At 256x256 vgg16_bn needs about 0.4 GB of memory per image of a batch, and twice "
        "as much where views_weight is not 0.",
        "a whole number from 1 to 4096",
        ge=1,
        le=4096,
    )
    learning_rate: float = _setting(
        "training", 0.001, "Step size of the optimizer, at its highest.", "a number above 0, up to 1", gt=0, le=1
    )
    lr_schedule: Literal["constant", "linear", "cosine", "one_cycle"] = _setting(
        "training",
        "cosine",
        "After the warm-up, 'constant' keeps learning_rate; 'linear' keeps it for half of the rest, then lowers it "
        "along a line to a hundredth at the last epoch; 'cosine' does so along a half cosine at once; 'one_cycle' "
        "rises from a 25th over warmup_epochs (over 30 % of the run where that is 0) and falls to next to nothing.",
        "'constant', 'linear', 'cosine' or 'one_cycle'",
    )
    warmup_epochs: float = _setting(
        "training",
        0.0,
        "Epochs, or parts of one, over which the learning rate rises to learning_rate at the start.",
        "a number from 0 to epochs",
        ge=0,
    )
    optimizer: Literal["adamw", "adam", "sgd", "adadelta"] = _setting(
        "training",
        "adamw",
        "'adamw' keeps weight_decay apart from the gradient (Loshchilov and Hutter, 2019), 'adam' adds it to "
        "it (Kingma and Ba, 2015); 'sgd' has a momentum of 0.9; 'adadelta' (Zeiler, 2012) wants a learning_rate of "
        "about 1.",
        "'adamw', 'adam', 'sgd' or 'adadelta'",
    )
    loss: LossName | Annotated[dict[LossName, Annotated[float, Field(gt=0)]], AfterValidator(valid_loss)] = _setting(
        "training",
        "mse",
        "What training lowers, between original and reconstruction: 'mse' and 'mae', their mean squared and mean "
        "absolute difference; 'bce', their cross-entropy; 'ssim', 1 - SSIM; or several, each with its weight.",
        "'mse', 'mae', 'bce', 'ssim', or some of them with weights above 0, such as {'mse': 0.8, 'ssim': 0.2}",
    )
    weight_decay: float = _setting(
        "training", 0.0001, "Pull of the weights towards zero.", "a number from 0 to 1", ge=0, le=1
    )
    gradient_clip: float = _setting(
        "training",
        0.0,
        "Shorten a gradient that is longer than this to it (Pascanu et al., 2013); 0 leaves every gradient as it is. "
        "history.csv has the mean length of each epoch.",
        "a number from 0",
        ge=0,
    )
    gradient_accumulation: int = _setting(
        "training",
        1,
        "Parts that a batch is computed in, one after the other: less memory for the same batch_size. Batch "
        "normalization then sees a part at a time.",
        "a whole number from 1 to batch_size",
        ge=1,
    )
    ema_decay: float = _setting(
        "training",
        0.0,
        "Test and keep a running average of the weights, which holds on to this share of itself at each step, such as "
        "0.999; 0 keeps the weights themselves.",
        "a number from 0, below 1",
        ge=0,
        lt=1,
    )
    input_noise: float = _setting(
        "training",
        0.0,
        "Standard deviation of noise added to the training images, which are to be reconstructed without it (Vincent "
        "et al., 2008).",
        "a number from 0",
        ge=0,
    )
    input_masking: float = _setting(
        "training",
        0.0,
        "Share of the 16x16 patches of each training image that are hidden under its mean colour, and are to be "
        "reconstructed (Pathak et al., 2016).",
        "a number from 0, below 1",
        ge=0,
        lt=1,
    )
    latent_noise: float = _setting(
        "training",
        0.0,
        "Standard deviation of noise added to the latent while training (Poole et al., 2014).",
        "a number from 0",
        ge=0,
    )
    activity_l1: float = _setting(
        "training",
        0.0,
        "Weight of the mean absolute latent value in the training loss: pulls the latent towards sparse values.",
        "a number from 0",
        ge=0,
    )
    rotation_weight: float = _setting(
        "training",
        0.0,
        "Turn each training image by a random quarter of a full turn (by a half where pictures are not square) and let "
        "the latent tell by how much, with this weight beside the loss, such as 0.1: features that know more of what "
        "an image shows (Gidaris et al., 2018). 0 leaves images upright.",
        "a number from 0",
        ge=0,
    )
    views_weight: Literal["auto"] | Annotated[float, Field(ge=0)] = _setting(
        "training",
        "auto",
        "Show each training image a second time, changed as the settings below say, and let the latent tell which two "
        "views of a batch are of one image, added to the loss with this weight (Chen et al., 2020): features that know "
        "more of what an image shows. 'auto' is 0.1, and 0 in a model with a linear shortcut, which has nothing to "
        "learn by it; 0 asks for reconstruction alone. With gradient_accumulation and in several processes the views "
        "of a part are compared with each other.",
        "'auto', or a number from 0",
    )
    views_crop: float = _setting(
        "training",
        0.4,
        "The least share of the picture's area that the changed view shows, brought to the size of the whole; 1 shows "
        "all of it. Features leave out what views differ in, here place and size.",
        "a number from 0.05 to 1",
        ge=0.05,
        le=1,
    )
    views_mirrored: bool = _setting(
        "training",
        True,
        "Mirror half of the changed views left to right; False where left and right mean something.",
        "True or False",
    )
    views_light: float = _setting(
        "training",
        0.3,
        "By how much brightness, contrast and colours of the changed view differ, as a share; 0 where they tell images "
        "apart.",
        "a number from 0 to 1",
        ge=0,
        le=1,
    )
    ordered_latent: bool = _setting(
        "training",
        False,
        "Keep only the first so many channels of each image's latent while training, a number drawn anew each time "
        "(Rippel et al., 2014): the first channels learn to carry most, and the last can be left away.",
        "True or False",
    )
    checkpoint_every: int = _setting(
        "training",
        0,
        "Keep the model of every so many epochs, too, as a checkpoint of its own in the folder epochs; 0 keeps the "
        "best one only.",
        "a whole number from 0",
        ge=0,
    )
    checkpoints_kept: int = _setting(
        "training",
        3,
        "How many of those are kept; the oldest go first.",
        "a whole number from 1",
        ge=1,
    )
    early_stopping_patience: int = _setting(
        "training",
        10,
        "Stop after this many epochs in which the validation loss did not fall by early_stopping_delta; 0 never stops "
        "early.",
        "a whole number from 0",
        ge=0,
    )
    early_stopping_delta: float = _setting(
        "training", 0.0, "How much lower a validation loss must be to count as better.", "a number from 0", ge=0
    )

    # --- evaluation
    imagenet_reference: Literal["auto"] | bool = _setting(
        "evaluation",
        "auto",
        "Compare the model's encoder with VGG16 trained on ImageNet, too. 'auto' does so where torchvision's weights "
        "are on this machine already, True downloads them once (550 MB).",
        "'auto', True or False",
    )

    # --- extraction
    feature_grid: Annotated[Literal[8, 4, 2, 1], BeforeValidator(whole_number)] = _setting(
        "extraction",
        8,
        "Side of the grid of features kept from the latent: 8 keeps all 8x8x512 = 32,768 values of an image, 4, 2 "
        "and 1 average them to 8,192, 2,048 and 512. Where the latent is not a multiple of the grid, neighbouring "
        "averages share a row or a column.",
        "8, 4, 2 or 1",
    )
    feature_stages: Literal["last", "all"] = _setting(
        "extraction",
        "last",
        "'last' takes the latent alone; 'all' puts what every stage of the encoder makes of an image before it, "
        "averaged to the same grid: the better choice where images are to be classified.",
        "'last' or 'all'",
    )
    feature_formats: Annotated[
        tuple[Literal["csv", "npy", "parquet"], ...], BeforeValidator(sorted_names), Field(min_length=1)
    ] = _setting(
        "extraction",
        ("csv",),
        "The files that hold the table. 'csv' opens everywhere, 'parquet' and 'npy' take a third of the space and load "
        "many times faster. A format that an extraction has is kept up to date.",
        "one or more of 'csv', 'npy' and 'parquet', such as ('csv', 'npy')",
    )
    reconstruction_error: bool = _setting(
        "extraction",
        False,
        "Put the mean squared error of each image's reconstruction into its row too; takes the decoder's time.",
        "True or False",
    )
    inference_engine: Literal["auto", "torch", "openvino"] = _setting(
        "extraction",
        "auto",
        "What runs the model in an extraction. 'auto' takes OpenVINO on the CPU where it is installed and quicker, "
        "else torch.",
        "'auto', 'torch' or 'openvino'",
    )
    inference_batch_size: int = _setting(
        "extraction",
        8,
        "Images per step in evaluation and extraction. On a CPU it changes no row of an extraction.",
        "a whole number from 1 to 4096",
        ge=1,
        le=4096,
    )

    # --- exploration
    explore_grid: Annotated[Literal[8, 4, 2, 1], BeforeValidator(whole_number)] = _setting(
        "exploration",
        2,
        "Side of the grid that features are averaged to before images are compared, where the extraction has a finer "
        "one: 1 compares what is in an image wherever it is, 8 each place with the same place, too.",
        "8, 4, 2 or 1",
    )
    similarity: Literal["cosine", "euclidean"] = _setting(
        "exploration",
        "cosine",
        "What makes images similar: a small angle between their features ('cosine'), which a brighter or paler picture "
        "of the same thing keeps, or a small distance ('euclidean').",
        "'cosine' or 'euclidean'",
    )
    similarity_normalization: Literal["auto", "none"] = _setting(
        "exploration",
        "auto",
        "How features are made comparable in search, viewer, clusters, map and method 'knn'. 'auto' takes signed "
        "square roots and up to 128 principal components, partially whitened, learned from the images themselves, of "
        "the features of the grid and of their mean over it; of fewer than 64 images, where features hardly go "
        "together, and with 'none' they are compared as they are.",
        "'auto' or 'none'",
    )
    duplicate_similarity: Literal["auto"] | Annotated[float, Field(gt=0, le=1)] = _setting(
        "exploration",
        "auto",
        "From which cosine similarity of their features on two images are near copies. 'auto' learns from copies that "
        "it makes of some of the images what a copy changes, and compares the pictures of those that come near.",
        "'auto', or a number above 0, up to 1, such as 0.95",
    )
    cluster_method: Literal["kmeans", "hdbscan"] = _setting(
        "exploration",
        "kmeans",
        "How images are divided into clusters: 'kmeans' into num_clusters of them, every image in one; 'hdbscan' into "
        "as many as are dense, with images that lie in none.",
        "'kmeans' or 'hdbscan'",
    )
    num_clusters: Literal["auto"] | Annotated[int, Field(ge=2)] = _setting(
        "exploration",
        "auto",
        "Clusters that 'kmeans' makes. 'auto' tries up to 50 and takes the number with the highest silhouette.",
        "'auto' or a whole number from 2",
    )
    min_cluster_size: int = _setting(
        "exploration",
        5,
        "Images that 'hdbscan' takes for a cluster at least: fewer make more and smaller clusters.",
        "a whole number from 2",
        ge=2,
    )
    interval_groups: Literal["auto", "folders", "none"] = _setting(
        "exploration",
        "auto",
        "Which images belong together, so that the 95 % intervals of evaluation, comparison, search and classification "
        "count them as one: 'auto' those that names show to be tiles or shots of one thing, and copies; 'folders' "
        "those of one folder, such as the frames of a film or the scans of a patient; 'none' takes all for "
        "independent.",
        "'auto', 'folders' or 'none'",
    )
    anomaly_views: Annotated[
        tuple[Literal["pixels", "early", "latent", "reconstruction"], ...],
        BeforeValidator(sorted_names),
        Field(min_length=1),
    ] = _setting(
        "exploration",
        ("pixels",),
        "Which scores the combined score of anomalies is the mean of; the others are told, too. 'pixels' sees small "
        "defects of a surface, the model's 'early' stages, 'latent' and 'reconstruction' larger ones and images that "
        "are odd as a whole.",
        "one or more of 'pixels', 'early', 'latent' and 'reconstruction', such as ('pixels', 'latent')",
    )
    anomaly_threshold: Literal["false_alarms", "best_f1"] = _setting(
        "exploration",
        "false_alarms",
        "What decides from which score on an image is anomalous: how many held-back normal images may be (see "
        "anomaly_false_alarms), or where F1 is best, for which the folder that is searched holds normal and anomalous "
        "images in folders of their own.",
        "'false_alarms' or 'best_f1'",
    )
    anomaly_false_alarms: float = _setting(
        "exploration",
        0.05,
        "The share of held-back normal images that may be taken for anomalous.",
        "a number from 0 to 0.5",
        ge=0,
        le=0.5,
    )
    anomaly_relative: bool = _setting(
        "exploration",
        True,
        "Look for the places of an image that are odd beside the rest of the same image, which finds defects of a "
        "surface; False for images that are anomalous as a whole.",
        "True or False",
    )
    anomaly_bank: int = _setting(
        "exploration",
        1000,
        "How many vectors of the normal images others are compared with; chosen to cover 10,000 of them.",
        "a whole number from 1 to 10000",
        ge=1,
        le=10000,
    )
    test_share: float = _setting(
        "exploration",
        0.2,
        "Share of the images with labels that a classifier is tested on, the same of each class, chosen by split_seed; "
        "with split = 'folders' those below the folder test are.",
        "a number above 0, below 1",
        gt=0,
        lt=1,
    )
    validation_share: float = _setting(
        "exploration",
        0.15,
        "Share of the other ones that a classifier does not learn from, but is chosen by: the epoch of a head, the "
        "regularization of a linear probe.",
        "a number above 0, below 1",
        gt=0,
        lt=1,
    )
    balance_classes: bool = _setting(
        "exploration",
        True,
        "Let an image count the more in training a probe or a head the fewer there are of its class.",
        "True or False",
    )
    num_neighbours: int = _setting(
        "exploration",
        10,
        "How many of the nearest images a classifier of method 'knn' goes by.",
        "a whole number from 1 to 1000",
        ge=1,
        le=1000,
    )
    head_stages: Literal["all", "last"] = _setting(
        "exploration",
        "all",
        "What a head sees of the encoder: 'all' its stages, from maps of at most 16 rows on, or the 'last' one, the "
        "latent, alone.",
        "'all' or 'last'",
    )
    head_width: int = _setting(
        "exploration",
        64,
        "Channels of a head where its maps are largest; there are up to four times as many further on.",
        "a whole number from 1 to 1024",
        ge=1,
        le=1024,
    )
    head_epochs: int = _setting(
        "exploration", 34, "Passes over the training images of a head.", "a whole number from 1", ge=1
    )
    head_batch_size: int = _setting(
        "exploration",
        128,
        "Images per step in training a head.",
        "a whole number from 2 to 4096",
        ge=2,
        le=4096,
    )
    head_learning_rate: float = _setting(
        "exploration",
        0.003,
        "Step size in training a head, at its highest; it rises over a tenth of the epochs, then falls along a half "
        "cosine.",
        "a number above 0, up to 1",
        gt=0,
        le=1,
    )
    head_augmentation: bool = _setting(
        "exploration",
        True,
        "Vary the training images of a head: mirrored, shifted by up to 12 %, half of them rotated by up to 12 degrees "
        "and zoomed by up to 12 %; and tell an image by the mean of itself and its mirror image.",
        "True or False",
    )
    head_patience: int = _setting(
        "exploration",
        10,
        "Stop training a head after this many epochs in which it got no better on the validation images; 0 never stops "
        "early.",
        "a whole number from 0",
        ge=0,
    )
    finetune_epochs: int = _setting(
        "exploration",
        0,
        "Passes in which the encoder is trained further together with its head, afterwards and at a fifth of the step "
        "size; 0 leaves it frozen.",
        "a whole number from 0",
        ge=0,
    )

    # --- general
    seed: int = _setting(
        "general",
        42,
        "Seed of the initial weights, the order of the images and the augmentation.",
        "a whole number from 0 to 4294967295",
        ge=0,
        le=2**32 - 1,
    )
    split_seed: int = _setting(
        "general",
        42,
        "Seed that divides the images into train, validation and test.",
        "a whole number from 0 to 4294967295",
        ge=0,
        le=2**32 - 1,
    )

    @property
    def loss_name(self) -> str:
        """The loss as a person reads it, such as '0.8 mse + 0.2 ssim'."""
        if isinstance(self.loss, str):
            return self.loss
        return " + ".join(f"{weight:g} {name}" for name, weight in self.loss.items())

    def to_json(self) -> str:
        """The settings as indented JSON, in the order of configurations.py."""
        return json.dumps(self.model_dump(mode="json"), indent=2) + "\n"


@dataclass(frozen=True)
class SettingInfo:
    """What a table or a file says about one setting."""

    name: str
    category: str
    default: object
    description: str
    allowed: str


def setting_infos() -> list[SettingInfo]:
    """Every setting in the order of configurations.py."""
    infos = []
    for name, field in Settings.model_fields.items():
        extra = field.json_schema_extra
        assert isinstance(extra, dict)
        infos.append(
            SettingInfo(name, str(extra["category"]), field.default, str(field.description), str(extra["allowed"]))
        )
    return infos
