# The settings of FeXT: everything that can be tuned, in one place. Edit the values and save; the menu reads
# this file anew for each action. A wrong value is refused with a message that says what is allowed.


# -------- Device, precision and speed

# Where the model runs. 'auto' takes a GPU where there is one, else the CPU; the others stop with a message
# where that device is missing.
# Allowed: 'auto', 'CPU', 'GPU', 'cuda:N' (such as 'cuda:1') or 'MPS'.
training_device = "auto"

# Compute in bfloat16 where that is safe (in float16 on GPUs without it). 'auto' does so where the machine
# computes it faster than float32, False is plain float32.
# Allowed: 'auto', True or False.
use_mixed_precision = "auto"

# Compile the model with torch.compile before training. Pays on a GPU in long runs; needs a C++ compiler.
# Allowed: True or False.
jit_compile = False

# The backend of torch.compile, used when jit_compile is True.
# Allowed: a backend that torch.compile lists on this machine, such as 'inductor' or 'aot_eager'.
jit_backend = "inductor"

# Record training for TensorBoard: curves, pictures, histograms, the graph, the settings and the latents.
# Allowed: True or False.
use_tensorboard = True

# Processes that read and decode images; 1 does it in the main process, in up to four threads. 'auto' takes 1
# when the model runs on the CPU, which is busy enough, up to 8 for a GPU, and all cores to analyze or choose
# images. It changes the speed, never the result.
# Allowed: 'auto' or a whole number from 1 to 256.
num_processors = "auto"

# Keep the images of a training run in memory once they are decoded, one byte for each value of picture_shape,
# where they take no more than half of what is free. It changes the speed, never the result.
# Allowed: True or False.
cache_images = False

# Compare the contents of every image with what is remembered of it, not only of one whose size, times or
# inode are others. Reads all files; for shares and disks whose times cannot be relied on.
# Allowed: True or False.
check_contents = False

# Threads that compute and decode on the CPU. 'auto' takes one for each core.
# Allowed: 'auto' or a whole number from 1 to 1024.
num_threads = "auto"


# -------- Images and how they become tensors

# Height, width and channels that every image is brought to. The latent is smaller in height and width: 32
# times, 4 times with 'cifar', with 'custom' by its strides and poolings; both must be multiples of that.
# Allowed: (height, width, channels): height and width from 16 to 4096, channels 3 or 1 (grey).
picture_shape = (256, 256, 3)

# How an image is brought to picture_shape: 'stretch' changes its proportions, 'crop' cuts the middle, 'pad'
# adds black borders.
# Allowed: 'stretch', 'crop' or 'pad'.
resize_mode = "stretch"

# Images for training, chosen by split_seed; num_validation_samples of them are kept from it to choose the
# epoch by. Where there are fewer images than num_train_samples + num_test_samples, all are used and divided
# in the same proportion.
# Allowed: a whole number from 1.
num_train_samples = 8000

# How many of the num_train_samples images are not trained on, but choose the epoch: that with the lowest loss
# on them is kept, and training stops early by them. 'auto' takes a tenth.
# Allowed: 'auto' or a whole number from 1, below num_train_samples.
num_validation_samples = "auto"

# Images to test on. Nothing is learned from them and nothing chosen by them.
# Allowed: a whole number from 1.
num_test_samples = 2000

# 'random' divides the images into train, validation and test by split_seed; 'folders' takes those below the
# folders train, validation and test, and those for validation out of train where it has no folder. Identical
# files never stand on two sides, and near copies only where nearly all images are such.
# Allowed: 'random' or 'folders'.
split = "random"

# Vary the training images: mirrored, shifted by up to 6 %, brightness and contrast changed by up to 10 %.
# Allowed: True or False.
augmentation = True


# -------- The autoencoder

# 'vgg16_bn' and 'vgg16': the convolutions of VGG16, with and without batch normalization. 'redux', 'medium'
# and 'large': residual models in three sizes, 'redux' many times faster and made for a CPU. 'cifar': for
# 32x32 pictures. 'custom': what the settings below say.
# Allowed: 'vgg16_bn', 'vgg16', 'redux', 'medium', 'large', 'cifar' or 'custom'.
architecture = "vgg16_bn"

# Channels of the latent of every architecture but 'cifar', which has 128, and 'custom', whose settings tell.
# Allowed: a whole number from 1 to 4096.
latent_channels = 512

# Build 'redux', 'medium' and 'large' around a linear map from squares of 32x32 pixels to the latent and back,
# which starts at the principal components of the training images: far better reconstructions, sooner. False
# builds them of convolutions from the pixels on.
# Allowed: True or False.
linear_shortcut = True

# How many of the latent_channels carry the picture itself, in a model with a linear shortcut; the others tell
# what it shows, by its answers to patches of the training images. More of them make reconstructions better,
# fewer of them features. 'auto' is a quarter; as many as latent_channels leaves all to the picture.
# Allowed: 'auto' or a whole number from 1 to latent_channels.
picture_channels = "auto"

# Share of the channels that are left out at random after each stage of the encoder while training (Tompson et
# al., 2015). 'auto' is 0.2 with 'cifar', else 0.
# Allowed: 'auto', or a number from 0, below 1.
dropout_rate = "auto"

# What 'vgg16_bn', 'vgg16', 'cifar' and 'custom' start from. 'images': up to 256 training images, patches of
# which become filters, and over which each unit is brought to variance 1, in seconds. 'none': random weights.
# 'imagenet': torchvision's weights for the encoder of 'vgg16' or 'vgg16_bn', downloaded once.
# Allowed: 'images', 'none' or 'imagenet'.
encoder_weights = "images"

# Draw the layers of the model as model_graph.png beside the checkpoint.
# Allowed: True or False.
generate_model_graph = True


# -------- The autoencoder of architecture = "custom", stage by stage

# Channels of each stage; how many there are is the number of stages. The latent has those of the last one.
# Allowed: a list of 1 to 12 whole numbers from 1 to 4096.
filters = (32, 64, 128, 256)

# Convolutions of each stage. Here and below a short list goes on with its last value.
# Allowed: a whole number from 1 to 64, or a list of such.
layers_per_block = (2,)

# Height and width of the kernels of each stage.
# Allowed: an odd number from 1 to 31, or a list of such.
kernel_size = (3,)

# Step of the first convolution of each stage, which makes the picture that many times smaller.
# Allowed: a whole number from 1 to 8, or a list of such.
strides = (1,)

# How each stage halves height and width at its end: the largest or the mean of 2x2 values, or not at all.
# Allowed: 'max', 'avg' or 'no', or a list of such.
pooling = ("max",)

# What follows each convolution.
# Allowed: 'relu', 'leaky_relu', 'elu', 'selu', 'gelu', 'silu', 'tanh' or 'sigmoid'.
activation = "relu"

# What makes the picture of the decoder's last convolution: 'sigmoid' keeps it within [0, 1].
# Allowed: 'sigmoid' or 'linear'.
last_activation = "sigmoid"

# Normalize after each convolution (Ioffe and Szegedy, 2015).
# Allowed: True or False.
batch_normalization = True

# Put fully connected layers of the sizes in dims between the last stage and the latent, which is then a
# vector: extract it with feature_grid = 1.
# Allowed: True or False.
mlp_bottleneck = False

# Sizes of the fully connected layers; the last one is that of the latent.
# Allowed: a whole number from 1 to 4096, or a list of such.
dims = (1000,)


# -------- Pretraining

# Passes over the training images.
# Allowed: a whole number from 1.
epochs = 50

# Images per training step. At 256x256 vgg16_bn needs about 0.4 GB of memory per image of a batch, and twice
# as much where views_weight is not 0.
# Allowed: a whole number from 1 to 4096.
batch_size = 8

# Step size of the optimizer, at its highest.
# Allowed: a number above 0, up to 1.
learning_rate = 0.001

# After the warm-up, 'constant' keeps learning_rate; 'linear' keeps it for half of the rest, then lowers it
# along a line to a hundredth at the last epoch; 'cosine' does so along a half cosine at once; 'one_cycle'
# rises from a 25th over warmup_epochs (over 30 % of the run where that is 0) and falls to next to nothing.
# Allowed: 'constant', 'linear', 'cosine' or 'one_cycle'.
lr_schedule = "cosine"

# Epochs, or parts of one, over which the learning rate rises to learning_rate at the start.
# Allowed: a number from 0 to epochs.
warmup_epochs = 0.0

# 'adamw' keeps weight_decay apart from the gradient (Loshchilov and Hutter, 2019), 'adam' adds it to it
# (Kingma and Ba, 2015); 'sgd' has a momentum of 0.9; 'adadelta' (Zeiler, 2012) wants a learning_rate of about
# 1.
# Allowed: 'adamw', 'adam', 'sgd' or 'adadelta'.
optimizer = "adamw"

# What training lowers, between original and reconstruction: 'mse' and 'mae', their mean squared and mean
# absolute difference; 'bce', their cross-entropy; 'ssim', 1 - SSIM; or several, each with its weight.
# Allowed: 'mse', 'mae', 'bce', 'ssim', or some of them with weights above 0, such as {'mse': 0.8, 'ssim':
# 0.2}.
loss = "mse"

# Pull of the weights towards zero.
# Allowed: a number from 0 to 1.
weight_decay = 0.0001

# Shorten a gradient that is longer than this to it (Pascanu et al., 2013); 0 leaves every gradient as it is.
# history.csv has the mean length of each epoch.
# Allowed: a number from 0.
gradient_clip = 0.0

# Parts that a batch is computed in, one after the other: less memory for the same batch_size. Batch
# normalization then sees a part at a time.
# Allowed: a whole number from 1 to batch_size.
gradient_accumulation = 1

# Test and keep a running average of the weights, which holds on to this share of itself at each step, such as
# 0.999; 0 keeps the weights themselves.
# Allowed: a number from 0, below 1.
ema_decay = 0.0

# Standard deviation of noise added to the training images, which are to be reconstructed without it (Vincent
# et al., 2008).
# Allowed: a number from 0.
input_noise = 0.0

# Share of the 16x16 patches of each training image that are hidden under its mean colour, and are to be
# reconstructed (Pathak et al., 2016).
# Allowed: a number from 0, below 1.
input_masking = 0.0

# Standard deviation of noise added to the latent while training (Poole et al., 2014).
# Allowed: a number from 0.
latent_noise = 0.0

# Weight of the mean absolute latent value in the training loss: pulls the latent towards sparse values.
# Allowed: a number from 0.
activity_l1 = 0.0

# Turn each training image by a random quarter of a full turn (by a half where pictures are not square) and
# let the latent tell by how much, with this weight beside the loss, such as 0.1: features that know more of
# what an image shows (Gidaris et al., 2018). 0 leaves images upright.
# Allowed: a number from 0.
rotation_weight = 0.0

# Show each training image a second time, changed as the settings below say, and let the latent tell which two
# views of a batch are of one image, added to the loss with this weight (Chen et al., 2020): features that
# know more of what an image shows. 'auto' is 0.1, and 0 in a model with a linear shortcut, which has nothing
# to learn by it; 0 asks for reconstruction alone. With gradient_accumulation and in several processes the
# views of a part are compared with each other.
# Allowed: 'auto', or a number from 0.
views_weight = "auto"

# The least share of the picture's area that the changed view shows, brought to the size of the whole; 1 shows
# all of it. Features leave out what views differ in, here place and size.
# Allowed: a number from 0.05 to 1.
views_crop = 0.4

# Mirror half of the changed views left to right; False where left and right mean something.
# Allowed: True or False.
views_mirrored = True

# By how much brightness, contrast and colours of the changed view differ, as a share; 0 where they tell
# images apart.
# Allowed: a number from 0 to 1.
views_light = 0.3

# Keep only the first so many channels of each image's latent while training, a number drawn anew each time
# (Rippel et al., 2014): the first channels learn to carry most, and the last can be left away.
# Allowed: True or False.
ordered_latent = False

# Keep the model of every so many epochs, too, as a checkpoint of its own in the folder epochs; 0 keeps the
# best one only.
# Allowed: a whole number from 0.
checkpoint_every = 0

# How many of those are kept; the oldest go first.
# Allowed: a whole number from 1.
checkpoints_kept = 3

# Stop after this many epochs in which the validation loss did not fall by early_stopping_delta; 0 never stops
# early.
# Allowed: a whole number from 0.
early_stopping_patience = 10

# How much lower a validation loss must be to count as better.
# Allowed: a number from 0.
early_stopping_delta = 0.0


# -------- Evaluation

# Compare the model's encoder with VGG16 trained on ImageNet, too. 'auto' does so where torchvision's weights
# are on this machine already, True downloads them once (550 MB).
# Allowed: 'auto', True or False.
imagenet_reference = "auto"


# -------- Extraction of features

# Side of the grid of features kept from the latent: 8 keeps all 8x8x512 = 32,768 values of an image, 4, 2 and
# 1 average them to 8,192, 2,048 and 512. Where the latent is not a multiple of the grid, neighbouring
# averages share a row or a column.
# Allowed: 8, 4, 2 or 1.
feature_grid = 8

# 'last' takes the latent alone; 'all' puts what every stage of the encoder makes of an image before it,
# averaged to the same grid: the better choice where images are to be classified.
# Allowed: 'last' or 'all'.
feature_stages = "last"

# The files that hold the table. 'csv' opens everywhere, 'parquet' and 'npy' take a third of the space and
# load many times faster. A format that an extraction has is kept up to date.
# Allowed: one or more of 'csv', 'npy' and 'parquet', such as ('csv', 'npy').
feature_formats = ("csv",)

# Put the mean squared error of each image's reconstruction into its row too; takes the decoder's time.
# Allowed: True or False.
reconstruction_error = False

# What runs the model in an extraction. 'auto' takes OpenVINO on the CPU where it is installed and quicker,
# else torch.
# Allowed: 'auto', 'torch' or 'openvino'.
inference_engine = "auto"

# Images per step in evaluation and extraction. On a CPU it changes no row of an extraction.
# Allowed: a whole number from 1 to 4096.
inference_batch_size = 8


# -------- Use of features

# Side of the grid that features are averaged to before images are compared, where the extraction has a finer
# one: 1 compares what is in an image wherever it is, 8 each place with the same place, too.
# Allowed: 8, 4, 2 or 1.
explore_grid = 2

# What makes images similar: a small angle between their features ('cosine'), which a brighter or paler
# picture of the same thing keeps, or a small distance ('euclidean').
# Allowed: 'cosine' or 'euclidean'.
similarity = "cosine"

# How features are made comparable in search, viewer, clusters, map and method 'knn'. 'auto' takes signed
# square roots and up to 128 principal components, partially whitened, learned from the images themselves, of
# the features of the grid and of their mean over it; of fewer than 64 images, where features hardly go
# together, and with 'none' they are compared as they are.
# Allowed: 'auto' or 'none'.
similarity_normalization = "auto"

# From which cosine similarity of their features on two images are near copies. 'auto' learns from copies that
# it makes of some of the images what a copy changes, and compares the pictures of those that come near.
# Allowed: 'auto', or a number above 0, up to 1, such as 0.95.
duplicate_similarity = "auto"

# How images are divided into clusters: 'kmeans' into num_clusters of them, every image in one; 'hdbscan' into
# as many as are dense, with images that lie in none.
# Allowed: 'kmeans' or 'hdbscan'.
cluster_method = "kmeans"

# Clusters that 'kmeans' makes. 'auto' tries up to 50 and takes the number with the highest silhouette.
# Allowed: 'auto' or a whole number from 2.
num_clusters = "auto"

# Images that 'hdbscan' takes for a cluster at least: fewer make more and smaller clusters.
# Allowed: a whole number from 2.
min_cluster_size = 5

# Which images belong together, so that the 95 % intervals of evaluation, comparison, search and
# classification count them as one: 'auto' those that names show to be tiles or shots of one thing, and
# copies; 'folders' those of one folder, such as the frames of a film or the scans of a patient; 'none' takes
# all for independent.
# Allowed: 'auto', 'folders' or 'none'.
interval_groups = "auto"

# Which scores the combined score of anomalies is the mean of; the others are told, too. 'pixels' sees small
# defects of a surface, the model's 'early' stages, 'latent' and 'reconstruction' larger ones and images that
# are odd as a whole.
# Allowed: one or more of 'pixels', 'early', 'latent' and 'reconstruction', such as ('pixels', 'latent').
anomaly_views = ("pixels",)

# What decides from which score on an image is anomalous: how many held-back normal images may be (see
# anomaly_false_alarms), or where F1 is best, for which the folder that is searched holds normal and anomalous
# images in folders of their own.
# Allowed: 'false_alarms' or 'best_f1'.
anomaly_threshold = "false_alarms"

# The share of held-back normal images that may be taken for anomalous.
# Allowed: a number from 0 to 0.5.
anomaly_false_alarms = 0.05

# Look for the places of an image that are odd beside the rest of the same image, which finds defects of a
# surface; False for images that are anomalous as a whole.
# Allowed: True or False.
anomaly_relative = True

# How many vectors of the normal images others are compared with; chosen to cover 10,000 of them.
# Allowed: a whole number from 1 to 10000.
anomaly_bank = 1000

# Share of the images with labels that a classifier is tested on, the same of each class, chosen by
# split_seed; with split = 'folders' those below the folder test are.
# Allowed: a number above 0, below 1.
test_share = 0.2

# Share of the other ones that a classifier does not learn from, but is chosen by: the epoch of a head, the
# regularization of a linear probe.
# Allowed: a number above 0, below 1.
validation_share = 0.15

# Let an image count the more in training a probe or a head the fewer there are of its class.
# Allowed: True or False.
balance_classes = True

# How many of the nearest images a classifier of method 'knn' goes by.
# Allowed: a whole number from 1 to 1000.
num_neighbours = 10

# What a head sees of the encoder: 'all' its stages, from maps of at most 16 rows on, or the 'last' one, the
# latent, alone.
# Allowed: 'all' or 'last'.
head_stages = "all"

# Channels of a head where its maps are largest; there are up to four times as many further on.
# Allowed: a whole number from 1 to 1024.
head_width = 64

# Passes over the training images of a head.
# Allowed: a whole number from 1.
head_epochs = 34

# Images per step in training a head.
# Allowed: a whole number from 2 to 4096.
head_batch_size = 128

# Step size in training a head, at its highest; it rises over a tenth of the epochs, then falls along a half
# cosine.
# Allowed: a number above 0, up to 1.
head_learning_rate = 0.003

# Vary the training images of a head: mirrored, shifted by up to 12 %, half of them rotated by up to 12
# degrees and zoomed by up to 12 %; and tell an image by the mean of itself and its mirror image.
# Allowed: True or False.
head_augmentation = True

# Stop training a head after this many epochs in which it got no better on the validation images; 0 never
# stops early.
# Allowed: a whole number from 0.
head_patience = 10

# Passes in which the encoder is trained further together with its head, afterwards and at a fifth of the step
# size; 0 leaves it frozen.
# Allowed: a whole number from 0.
finetune_epochs = 0


# -------- Seeds

# Seed of the initial weights, the order of the images and the augmentation.
# Allowed: a whole number from 0 to 4294967295.
seed = 42

# Seed that divides the images into train, validation and test.
# Allowed: a whole number from 0 to 4294967295.
split_seed = 42
