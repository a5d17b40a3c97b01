"""Pruning, 8-bit quantization, and the packed form in which a compressed model is stored."""
