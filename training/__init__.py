"""Training: data set → checkpoint.  `python -m training --help` shows the way in."""
