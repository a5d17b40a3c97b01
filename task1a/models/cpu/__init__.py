"""Fast twins of the networks for processors: kernels of the training, and the inference form."""
