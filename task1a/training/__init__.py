"""Training: augmentation and the fitting loop."""
