# The settings of FeXT: everything that can be tuned, in one place. Edit the values and save; the menu reads
# this file anew for each action. A wrong value is refused with a message that says what is allowed.


# -------- Device, precision and speed

# Where the model runs. 'auto' takes a GPU where there is one, else the CPU; the others stop with a message
# where that device is missing.
# Allowed: 'auto', 'CPU', 'GPU', 'cuda:N' (such as 'cuda:1') or 'MPS'.
training_device = "auto"

# Compute in bfloat16 where that is safe. 'auto' does so where the machine computes bfloat16 faster than
# float32, False is plain float32.
# Allowed: 'auto', True or False.
use_mixed_precision = "auto"

# Compile the model with torch.compile before training. Pays on a GPU in long runs; needs a C++ compiler.
# Allowed: True or False.
jit_compile = False

# The backend of torch.compile, used when jit_compile is True.
# Allowed: a backend that torch.compile lists on this machine, such as 'inductor' or 'aot_eager'.
jit_backend = "inductor"

# Write scalars, pictures and the graph for TensorBoard while training.
# Allowed: True or False.
use_tensorboard = True

# Processes that read and decode images; 1 does it in the main process. 'auto' takes 1 when the model runs on
# the CPU, which is busy enough, and up to 8 for a GPU. It changes the speed, never the result.
# Allowed: 'auto' or a whole number from 1 to 256.
num_processors = "auto"

# Threads that compute on the CPU. 'auto' takes one for each core.
# Allowed: 'auto' or a whole number from 1 to 1024.
num_threads = "auto"


# -------- Images and how they become tensors

# Height, width and channels that every image is brought to. The latent is 32 times smaller in height and
# width: 8x8 for 256x256.
# Allowed: (height, width, channels): height and width multiples of 32 from 32 to 4096, channels 3 or 1
# (grey).
picture_shape = (256, 256, 3)

# How an image is brought to picture_shape: 'stretch' changes its proportions, 'crop' cuts the middle, 'pad'
# adds black borders.
# Allowed: 'stretch', 'crop' or 'pad'.
resize_mode = "stretch"

# Images to train on, chosen by split_seed. Where there are fewer images than num_train_samples +
# num_test_samples, all are used and divided in the same proportion.
# Allowed: a whole number from 1.
num_train_samples = 8000

# Images to test on, never trained on. The best epoch is the one with the lowest loss on them.
# Allowed: a whole number from 1.
num_test_samples = 2000

# 'random' divides the images into train and test by split_seed; 'folders' takes those below the folders train
# and test. Identical files never stand on both sides.
# Allowed: 'random' or 'folders'.
split = "random"

# Vary the training images: mirrored, shifted by up to 6 %, brightness and contrast changed by up to 10 %.
# Allowed: True or False.
augmentation = True


# -------- The autoencoder

# 'vgg16_bn' and 'vgg16': the convolutions of VGG16, with and without batch normalization. 'redux': a slim
# residual model, many times faster, made for a CPU.
# Allowed: 'vgg16_bn', 'vgg16' or 'redux'.
architecture = "vgg16_bn"

# Draw the layers of the model as model_graph.png beside the checkpoint.
# Allowed: True or False.
generate_model_graph = True


# -------- Pretraining

# Passes over the training images.
# Allowed: a whole number from 1.
epochs = 50

# Images per training step. At 256x256 vgg16_bn needs about 0.4 GB of memory per image of a batch.
# Allowed: a whole number from 1 to 4096.
batch_size = 8

# Step size of the optimizer, at its highest.
# Allowed: a number above 0, up to 1.
learning_rate = 0.001

# 'constant' keeps learning_rate; 'cosine' lowers it along a half cosine to a hundredth at the last epoch.
# Allowed: 'constant' or 'cosine'.
lr_schedule = "constant"

# 'adamw' keeps weight_decay apart from the gradient (Loshchilov and Hutter, 2019), 'adam' adds it to it.
# Allowed: 'adamw' or 'adam'.
optimizer = "adamw"

# What training lowers: mean squared or mean absolute difference of original and reconstruction.
# Allowed: 'mse' or 'mae'.
loss = "mse"

# Pull of the weights towards zero.
# Allowed: a number from 0 to 1.
weight_decay = 0.0001

# Stop after this many epochs in which the test loss did not fall by early_stopping_delta; 0 never stops
# early.
# Allowed: a whole number from 0.
early_stopping_patience = 10

# How much lower a test loss must be to count as better.
# Allowed: a number from 0.
early_stopping_delta = 0.0


# -------- Extraction of features

# Side of the grid of features kept from the latent: 8 keeps all 8x8x512 = 32,768 values of an image, 4, 2 and
# 1 average them to 8,192, 2,048 and 512.
# Allowed: 8, 4, 2 or 1.
feature_grid = 8

# The files that hold the table. 'csv' opens everywhere, 'parquet' and 'npy' take a third of the space and
# load many times faster. A format that an extraction has is kept up to date.
# Allowed: one or more of 'csv', 'npy' and 'parquet', such as ('csv', 'npy').
feature_formats = ("csv",)

# Put the mean squared error of each image's reconstruction into its row too; takes the decoder's time.
# Allowed: True or False.
reconstruction_error = False

# What runs the model in an extraction. 'auto' takes OpenVINO on the CPU where it is installed, else torch.
# Allowed: 'auto', 'torch' or 'openvino'.
inference_engine = "auto"

# Images per step in evaluation and extraction.
# Allowed: a whole number from 1 to 4096.
inference_batch_size = 8


# -------- Seeds

# Seed of the initial weights, the order of the images and the augmentation.
# Allowed: a whole number from 0 to 4294967295.
seed = 42

# Seed that divides the images into train and test.
# Allowed: a whole number from 0 to 4294967295.
split_seed = 42
