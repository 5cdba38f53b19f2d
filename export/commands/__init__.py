"""The verbs of `python -m export`, a file for each: its flags, and what it does."""
