"""Validation of packages, one module a kind of file."""
