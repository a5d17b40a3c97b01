"""BC-ResNet-ASC with Residual Normalization: from recordings to a small model and its predictions."""
