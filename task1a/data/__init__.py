"""Clips: a data set in the layout of the TAU sets, its check, and the embedded demo set."""
