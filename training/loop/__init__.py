"""Epochs: batches, the optimizer, the running average, and a diagnosis of what diverged."""
