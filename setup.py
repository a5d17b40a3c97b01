"""For tools that expect a setup.py; everything is configured in pyproject.toml."""
from setuptools import setup

setup()
