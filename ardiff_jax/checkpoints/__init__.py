"""Published checkpoints in and out: names of tensors, files, and the model directories made."""
