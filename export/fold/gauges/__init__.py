"""Fold BatchNorms wherever the graph around them can take their scale and shift, solved together."""
