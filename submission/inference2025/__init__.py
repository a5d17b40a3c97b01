"""The inference package of the 2025 edition: its interface, the package around it, and the check of
packages."""
