"""FeXT turns a folder of images into features with a convolutional autoencoder."""

__version__ = "0.1.0"
