"""Nets of training in their smallest form, and a data set to match."""

import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from training.__main__ import main
from training.batchnorm.statistics import find_batchnorms
from training.data import DataFacts, Split, load_split

SIDE = 16
FACTS = DataFacts(
    name="tiny",
    labels=list("0123456789"),
    input_shape=(1, SIDE, SIDE),
    mode="L",
    mean=[0.2],
    std=[0.35],
)

SMALLEST = {
    "mlp": {"hidden": "8"},
    "cnn": {"channels": "4,8", "hidden": "8"},
    "small-cnn": {"channels": "4,8", "hidden": "8"},
    "keras-cnn": {"channels": "4,6", "hidden": "8,7"},
    "vgg": {"channels": "4,6", "convs": "1,2", "hidden": "8"},
    "nin": {"channels": "4,6", "kernels": "5,3"},
    "resnet": {"depth": "8", "width": "4"},
    "preact-resnet": {"depth": "14", "width": "5"},
    "mobilenet": {
        "channels": "4,6",
        "repeats": "1,2",
        "strides": "1,2",
        "expansion": "2",
        "stem": "4",
        "last": "8",
    },
    "densenet": {"growth": "3", "layers": "2,2"},
    "repvgg": {"channels": "4,6", "repeats": "2,1"},
}


def tiny_split() -> Split:
    """200 digits to train on and 100 held out, their middle 16×16 pixels."""
    digits = load_split("digits")
    edge = (28 - SIDE) // 2
    middle = (..., slice(edge, edge + SIDE), slice(edge, edge + SIDE))
    return replace(
        digits,
        facts=FACTS,
        train_pixels=digits.train_pixels[::20][middle].contiguous(),
        train_labels=digits.train_labels[::20],
        held_out_pixels=digits.held_out_pixels[::10][middle].contiguous(),
        held_out_labels=digits.held_out_labels[::10],
    )


def without_pictures(patch: pytest.MonkeyPatch) -> None:
    """Runs draw no picture, which takes longer than an epoch of theirs: for tests that read none."""
    for draw in ("publish_curves", "publish_predictions"):
        patch.setattr(f"training.runs.run.{draw}", lambda *arguments: None)


def lively(net: nn.Module) -> nn.Module:
    """Statistics of real activations, γ > 0 and large β."""
    chance = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for norm in find_batchnorms(net):
            norm.weight.uniform_(0.5, 1.5, generator=chance)
            norm.bias.normal_(0, 0.3, generator=chance)
            norm.momentum = None  # a plain average over what comes
        net.train()(torch.randn(64, *FACTS.input_shape, generator=chance) * 2)
    return net.eval()


def facts_of(stdout: str) -> dict[str, Any]:
    """The one line of JSON that a run prints at its end."""
    (line,) = stdout.splitlines()
    return json.loads(line)


def mistake(capsys: pytest.CaptureFixture[str], *flags: str) -> str:
    """Run a command that must fail; returns its one sentence."""
    try:
        code = main(flags)
    except SystemExit as stopped:
        code = stopped.code
    captured = capsys.readouterr()
    assert code == 2
    assert captured.out == ""
    (sentence,) = captured.err.splitlines()
    return sentence
