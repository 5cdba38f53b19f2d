"""What may be chosen for a run, as flags and as checked values."""
