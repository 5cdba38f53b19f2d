"""Fine-tuning: a head of other classes, what is frozen, a slower backbone, and a run that is resumed."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fit_kit import few_digits, fresh_net
from training.__main__ import main
from training.data import DATA_SETS, Split
from training.loop.fit import Start, fit
from training.loop.optimize import build_optimizer, set_learning_rate
from training.nets import NetError
from training.nets.weights import find_head, freeze
from training.runs.checkpoint import load_checkpoint
from training.settings.config import FitConfig
from training_kit import tiny_split, without_pictures

FEW = few_digits()
FLAGS = ["--device", "cpu", "--batch-size", "50", "--augment", "none"]


def halved(split: Split) -> Split:
    """Two classes instead of ten: below five, or not; of the held-out half the last rows."""
    facts = replace(split.facts, name="halves", labels=["low", "high"], mean=[0.5], std=[0.5])
    train, held_out = ((labels >= 5).long() for labels in (split.train_labels, split.held_out_labels))
    return replace(split, facts=facts, train_labels=train, held_out_labels=held_out)


@pytest.fixture(autouse=True)
def _data(monkeypatch):
    tiny = tiny_split()
    letters = replace(tiny, facts=replace(tiny.facts, labels=list("abcdefghij")))
    for name, split in (("tiny", tiny), ("halves", halved(tiny)), ("letters", letters)):
        monkeypatch.setitem(DATA_SETS, name, lambda split=split: split)
    without_pictures(monkeypatch)


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """A small CNN, trained on ten classes."""
    out = tmp_path_factory.mktemp("source")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(DATA_SETS, "tiny", tiny_split)
        without_pictures(patch)
        flags = ["--net", "cnn", "--net-setting", "channels=4,8", "--net-setting", "hidden=8"]
        assert main(["--out", str(out), *FLAGS, "--data", "tiny", "--epochs", "3", *flags]) == 0
    return out / "checkpoint.pt"


def tune(out: Path, source: Path, *flags: str) -> int:
    return main(["--out", str(out), *FLAGS, "--epochs", "2", "--init-from", str(source), *flags])


def test_a_net_of_other_classes_begins_with_the_backbone_and_a_new_head(source, tmp_path, capsys):
    assert tune(tmp_path / "run", source, "--data", "halves", "--freeze", "backbone") == 0
    shown = capsys.readouterr().err
    assert "fine-tuning: the head head.3 is new, for its classes are others" in shown
    before, after = load_checkpoint(source), load_checkpoint(tmp_path / "run" / "checkpoint.pt")
    assert (after.net_name, after.net_settings["channels"]) == ("cnn", (4, 8)), "the source's net, unasked"
    assert after.net_settings["num_classes"] == 2
    assert (after.data.mean, after.data.std) == (before.data.mean, before.data.std)
    for name, value in before.state_dict.items():
        if not name.startswith("head.3."):
            assert torch.equal(after.state_dict[name], value), f"{name} is frozen, statistics too"


def test_as_many_but_other_classes_get_a_new_head_too(source, tmp_path, capsys):
    assert tune(tmp_path / "run", source, "--data", "letters", "--freeze", "backbone") == 0
    assert "the head head.3 is new" in capsys.readouterr().err
    assert tune(tmp_path / "same", source, "--data", "tiny", "--freeze", "bn") == 0
    assert "is new" not in capsys.readouterr().err
    before, after = load_checkpoint(source), load_checkpoint(tmp_path / "same" / "checkpoint.pt")
    for name, value in before.state_dict.items():
        is_norm = name.startswith(("blocks.1.", "blocks.5.", "head.1."))
        assert torch.equal(after.state_dict[name], value) == is_norm, name


def test_a_resumed_run_needs_the_source_no_longer_and_comes_to_the_same_bits(source, tmp_path, capsys):
    copy = tmp_path / "source.pt"
    copy.write_bytes(source.read_bytes())
    flags = ["--data", "halves", "--backbone-rate", "0.1"]
    assert tune(tmp_path / "whole", copy, *flags) == 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.runs.run.Run._write_metrics", _interrupt)
        assert tune(tmp_path / "stopped", copy, *flags) == 130
    copy.unlink()
    assert main(["--out", str(tmp_path / "stopped"), "--device", "cpu", "--resume"]) == 0
    whole, stopped = (tmp_path / name / "checkpoint.pt" for name in ("whole", "stopped"))
    assert whole.read_bytes() == stopped.read_bytes()
    assert tune(tmp_path / "new", copy, *flags) == 2
    assert f"no checkpoint at {copy}" in capsys.readouterr().err


def _interrupt(*arguments: object) -> None:
    raise KeyboardInterrupt


def test_the_backbone_moves_at_its_own_rate():
    net = fresh_net(FEW)
    config = FitConfig(backbone_rate=0.1, momentum=0, weight_decay=0)
    optimizer = build_optimizer(net, config)
    set_learning_rate(optimizer, 0.5)
    before = {name: value.detach().clone() for name, value in net.named_parameters()}
    for parameter in net.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    for name, value in net.named_parameters():
        rate = 0.5 if name.startswith(find_head(net)) else 0.05
        torch.testing.assert_close(before[name] - value.detach(), torch.full_like(value, rate))


@pytest.mark.parametrize("what", ["backbone", "bn", "blocks.*"])
def test_what_is_frozen_stays_and_a_resumed_run_is_the_same(what):
    config = FitConfig(epochs=2, batch_size=32, freeze=what, learning_rate=0.05)
    net = fresh_net(FEW)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    first, last = fit(net, FEW, config)
    moved = {name for name, value in net.state_dict().items() if not torch.equal(value, before[name])}
    frozen = {
        "backbone": {name for name in before if not name.startswith("head.3.")},
        "bn": {name for name in before if name.startswith(("blocks.1.", "blocks.5.", "head.1."))},
        "blocks.*": {name for name in before if name.startswith("blocks.")},
    }[what]
    assert moved == before.keys() - frozen
    assert (first.facts.epoch, last.facts.epoch) == (1, 2)
    resumed = fresh_net(FEW)
    begun = next(fit(resumed, FEW, config))
    again = fresh_net(FEW)
    again.load_state_dict(begun.net.state_dict())
    (end,) = fit(again, FEW, config, Start(epochs_done=1, state=begun.state))
    assert end.facts == last.facts


@pytest.mark.parametrize(
    ("what", "sentence"),
    [
        ("block.*", "freeze block.* matches no parameter"),
        ("*", "freeze * leaves nothing to train"),
    ],
)
def test_a_pattern_that_freezes_nothing_or_all_is_refused(source, tmp_path, capsys, what, sentence):
    with pytest.raises(NetError, match="freeze"):
        freeze(fresh_net(FEW), what)
    assert tune(tmp_path / "run", source, "--data", "tiny", "--freeze", what) == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
