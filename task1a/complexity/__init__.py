"""The size of a system: non-zero values by bit width, in model files of all formats."""
