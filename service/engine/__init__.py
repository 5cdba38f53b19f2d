"""A graph on a device: how to run it is measured, and what it answers is proved."""
