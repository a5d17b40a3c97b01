"""From recordings to log-mel energies, and their cache."""
