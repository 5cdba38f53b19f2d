"""The pictures of a run: curves, confusion, the worst mistakes."""
