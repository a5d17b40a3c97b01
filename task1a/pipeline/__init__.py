"""The chain: runs, stages, the runner and sweeps."""
