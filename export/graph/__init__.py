"""Graphs on their way through export: `file` reads and writes, `prepare` makes ready, `edit` changes."""
