"""Nets that are not ours: `timm:NAME`, and `module:factory` for your own code."""
