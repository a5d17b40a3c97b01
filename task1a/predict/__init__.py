"""Prediction with a stored model: of the clips of a run, of any recordings, and of what a
microphone records."""
