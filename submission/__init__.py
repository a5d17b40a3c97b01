"""Predictions and judgement of a run -> a checked challenge package. Knows files and numbers, never
models."""
