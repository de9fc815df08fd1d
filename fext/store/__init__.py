"""The only room that writes: checkpoints, feature tables, TensorBoard, samples, logs."""
