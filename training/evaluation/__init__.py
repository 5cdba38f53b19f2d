"""How good a checkpoint or a bundle is on any test set, without a server: `foldserve evaluate`."""
