"""Nets that are not ours: `timm:NAME`, `torchvision:NAME`, and `module:factory` for your own code."""
