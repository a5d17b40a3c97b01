"""Paired tests of two systems."""
