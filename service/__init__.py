"""Bundles in, answers over HTTP out.  Imports nothing else of this project, and never torch."""

__version__ = "0.1.0"
