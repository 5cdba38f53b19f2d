"""Answers to probabilities.

    softmax(logits) = exp(logit − max) / Σ exp(logit − max)          sigmoid(logit) = 1 / (1 + exp(−logit))

A net whose golden answers are distributions has its softmax inside; it is not applied twice.
"""

import numpy as np


def softmax(logits_nk: np.ndarray) -> np.ndarray:
    """Probabilities (rows, classes) float64 of logits (rows, classes)."""
    exponents = np.exp(logits_nk.astype(np.float64) - logits_nk.max(axis=1, keepdims=True))
    probabilities_nk: np.ndarray = exponents / exponents.sum(axis=1, keepdims=True)
    return probabilities_nk


def sigmoid(logits_nk: np.ndarray) -> np.ndarray:
    """Probabilities float64 of logits, each by itself; exact for large ones of either sign."""
    halves = np.tanh(logits_nk.astype(np.float64) / 2)
    probabilities_nk: np.ndarray = (1 + halves) / 2
    return probabilities_nk


def are_distributions(answers: np.ndarray) -> bool:
    """Whether `answers` (rows, classes) are ≥ 0 and sum to 1 in each row, within the rounding of float16."""
    return answers.ndim == 2 and bool((answers >= 0).all() and np.allclose(answers.sum(axis=1), 1, atol=1e-3))
