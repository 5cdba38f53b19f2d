"""Augmentation: a batch of pictures in, a batch of slightly different pictures out.

In: pictures (N, C, H, W), uint8 or floating.  Out: the same shape and type.

Drawing the chance and applying it are two functions: the first takes its generator, the second is pure.
Chance is drawn on the CPU, so every device sees the same pictures.
"""

from training.augment.choose import choose_augmentation, parse_augment
from training.augment.plan import Augmentation, Plan

__all__ = ["Augmentation", "Plan", "choose_augmentation", "parse_augment"]
