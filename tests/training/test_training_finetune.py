"""Fine-tuning: weights from a file, a head of other classes, what is frozen, and a slower backbone."""

import argparse
import collections
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fit_kit import few_digits, fresh_net
from training.__main__ import main
from training.data import DATA_SETS, Split
from training.loop.fit import Start, fit
from training.loop.optimize import build_optimizer, set_learning_rate
from training.nets import NetError
from training.nets.weights import find_head, freeze, load_all_weights, load_weights, renamed
from training.runs.checkpoint import CheckpointError, load_checkpoint
from training.runs.source import read_source
from training.runs.weights_file import KEYS
from training.settings.config import FitConfig
from training_kit import tiny_split

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


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """A small CNN, trained on ten classes."""
    out = tmp_path_factory.mktemp("source")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(DATA_SETS, "tiny", tiny_split)
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


class Outer(nn.Module):
    """A net whose own names begin as a trainer's do."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))


@pytest.mark.parametrize(
    "form",
    ["{}", "module.{}", "model.{}", "_orig_mod.module.{}", "model._orig_mod.{}", "module.model.{}"],
)
def test_names_that_a_wrapper_or_trainer_changed_are_the_nets(form):
    for net in (nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)), Outer()):
        wanted = net.state_dict()
        given = {form.format(name.removeprefix("model.")): value for name, value in wanted.items()}
        found = renamed(given | {"criterion.weight": torch.ones(1)}, net)
        assert found.keys() == wanted.keys() | {"criterion.weight"}
        assert all(found[name] is value for name, value in wanted.items())


def test_a_name_that_the_net_has_itself_is_left_as_it_is():
    net = nn.Sequential(nn.Linear(2, 2))
    given = {"0.weight": torch.ones(1), "0.bias": torch.zeros(1), "model.0.weight": torch.zeros(1)}
    assert renamed(given, net).keys() == given.keys()
    # the ImageNet example of PyTorch wraps only `features`
    inner = nn.Sequential(nn.Sequential(nn.Linear(2, 2)))
    assert renamed({"0.module.0.bias": torch.ones(1)}, inner).keys() == {"0.0.bias"}


def test_weights_that_fit_nowhere_are_named():
    with pytest.raises(NetError, match=r"fit nowhere: it has x.1, x.2, x.3 and 1 more, the net has blocks.0"):
        load_weights(fresh_net(FEW), {f"x.{index}": torch.ones(1) for index in range(1, 5)}, "a.pt")
    wide = fresh_net(FEW).state_dict() | {"blocks.4.weight": torch.ones(9, 4, 3, 3)}
    with pytest.raises(NetError, match=r"blocks.4.weight is \(9, 4, 3, 3\), and the net wants"):
        load_weights(fresh_net(FEW), wide, "a.pt")


def test_what_was_not_loaded_is_named():
    weights = fresh_net(FEW, 1).state_dict()
    weights["extra.weight"] = torch.ones(1)
    del weights["blocks.0.weight"]
    net = fresh_net(FEW)
    notes = " / ".join(load_weights(net, weights, "a.pt"))
    assert "not in a.pt, so new: blocks.0.weight" in notes
    assert "of a.pt not used: extra.weight" in notes
    assert torch.equal(net.state_dict()["head.3.weight"], weights["head.3.weight"])


def write_safetensors(path: Path, weights: dict[str, Tensor]) -> None:
    header, data = {"__metadata__": {"format": "pt"}}, b""
    for name, value in weights.items():
        content = value.contiguous().numpy().tobytes()
        kind = {torch.float32: "F32", torch.int64: "I64"}[value.dtype]
        ends = [len(data), len(data) + len(content)]
        header[name] = {"dtype": kind, "shape": list(value.shape), "data_offsets": ends}
        data += content
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def test_state_dicts_and_safetensors_are_read(tmp_path):
    weights = fresh_net(FEW).state_dict()
    torch.save({"state_dict": weights, "epoch": 3}, tmp_path / "theirs.pth")
    torch.save(weights, tmp_path / "bare.pt")
    write_safetensors(tmp_path / "weights.safetensors", weights)
    for name in ("theirs.pth", "bare.pt", "weights.safetensors"):
        found = read_source(tmp_path / name).weights
        assert found.keys() == weights.keys()
        assert all(torch.equal(found[key], value) for key, value in weights.items()), name


@pytest.mark.parametrize("cut", [4, 60, -8])
def test_a_torn_safetensors_file_is_one_sentence(tmp_path, cut):
    path = tmp_path / "weights.safetensors"
    write_safetensors(path, {"a": torch.ones(4)})
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(CheckpointError, match=r"is no whole \.safetensors file"):
        read_source(path)


@pytest.mark.parametrize("record", [[1, 2], {"epoch": 3}, {}])
def test_a_file_without_weights_is_one_sentence(tmp_path, record):
    torch.save(record, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="holds no state dict"):
        read_source(tmp_path / "a.pt")


@pytest.mark.parametrize("wrap", [lambda net: net, lambda net: {"model": net, "epoch": 1}])
def test_a_pickled_net_is_not_run(tmp_path, wrap):
    torch.save(wrap(nn.Linear(2, 2)), tmp_path / "net.pt")
    with pytest.raises(CheckpointError, match=r"it holds a pickled net \(torch.nn.modules.linear.Linear\)"):
        read_source(tmp_path / "net.pt")


class Runs:
    """A pickle that would run a command."""

    def __reduce__(self):
        return (os.system, ("touch ran",))


def test_a_pickle_that_runs_a_command_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": {"a": torch.ones(1)}, "config": Runs()}, "a.pt")
    with pytest.raises(CheckpointError, match=r"a.pt is no file of weights: it cannot be read without run"):
        read_source(Path("a.pt"))
    assert not Path("ran").exists()


def test_what_trainers_save_beside_the_weights_is_left_out(tmp_path):
    weights = {"a": torch.ones(2)}
    record = {
        "args": argparse.Namespace(lr=0.1, path=Path("a")),
        "best": np.float64(0.9),
        "history": collections.defaultdict(list, {"loss": [1.0]}),
        "optimizer": torch.optim.SGD([torch.ones(1)], lr=0.1).state_dict(),
    }
    for key in KEYS:
        torch.save({**record, key: weights}, tmp_path / "a.pt")
        assert read_source(tmp_path / "a.pt").weights.keys() == {"a"}, key
    torch.save({"model": {"state_dict": weights}}, tmp_path / "a.pt", _use_new_zipfile_serialization=False)
    assert read_source(tmp_path / "a.pt").weights.keys() == {"a"}


WEIGHTS = {"a": torch.ones(2), "b": torch.ones(3)}
FORMS = {
    "a key of its own": {"generator": WEIGHTS, "epoch": 3},
    "two levels down": {"checkpoint": {"state_dict": WEIGHTS}},
    "an average in a module": {"ema": {"decay": 0.9, "module": WEIGHTS}, "model": {"a": torch.zeros(2)}},
    "an average beside it": {"params": {"a": torch.zeros(2)}, "params_ema": WEIGHTS},
    "a number among them": {**WEIGHTS, "epoch": 3},
    "an optimizer's tensors": {"optimizer": {"state": {0: {"exp_avg": torch.ones(1)}}}, "teacher": WEIGHTS},
}


@pytest.mark.parametrize("record", FORMS.values(), ids=FORMS)
def test_weights_are_found_wherever_they_are_the_only_ones(tmp_path, record):
    torch.save(record, tmp_path / "a.pt")
    found = read_source(tmp_path / "a.pt").weights
    assert found.keys() == WEIGHTS.keys()
    assert found["a"].all()


def test_two_nets_in_a_file_are_not_chosen_from(tmp_path):
    torch.save({"student": WEIGHTS, "teacher": WEIGHTS}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=r"it has student, teacher: save net\.state_dict\(\) alone"):
        read_source(tmp_path / "a.pt")


def test_safetensors_under_another_name_and_what_is_neither(tmp_path):
    write_safetensors(tmp_path / "pytorch_model.bin", WEIGHTS)
    assert read_source(tmp_path / "pytorch_model.bin").weights.keys() == WEIGHTS.keys()
    (tmp_path / "a.pt").write_text("hello")
    with pytest.raises(CheckpointError, match=r"neither torch\.save nor safetensors wrote it"):
        read_source(tmp_path / "a.pt")


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda own: {f"backbone.{name}": value for name, value in own.items()}, None),
        (
            lambda own: {**{f"model.{name}": value for name, value in own.items()}, "loss.w": torch.ones(1)},
            None,
        ),
        (lambda own: {name: value.to_sparse() for name, value in own.items()}, None),
        (
            lambda own: {f"{at}.{name}": own[name] for at in ("student", "teacher") for name in own},
            "2 missing",
        ),
        (lambda own: {**own, "fc.weight": torch.ones(1)}, "1 unexpected \\(fc.weight\\)"),
        (
            lambda own: {name: value.to("meta") for name, value in own.items()},
            "tensors \\(meta, torch.float32\\)",
        ),
    ],
    ids=["a prefix", "a loss beside it", "sparse", "two prefixes", "one more", "no numbers"],
)
def test_names_under_a_prefix_are_those_of_the_net_where_that_is_clear(change, error):
    theirs, net = nn.Sequential(nn.Linear(2, 2)), nn.Sequential(nn.Linear(2, 2))
    given = change(theirs.state_dict())
    if error is not None:
        with pytest.raises(NetError, match=error):
            load_all_weights(net, given, "a.pt")
        return
    load_all_weights(net, given, "a.pt")
    assert all(torch.equal(value, theirs.state_dict()[name]) for name, value in net.state_dict().items())


@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_an_average_is_preferred_and_a_script_is_refused(tmp_path):
    torch.save({"model": {"a": torch.zeros(1)}, "model_ema": {"module.a": torch.ones(1)}}, tmp_path / "a.pt")
    assert read_source(tmp_path / "a.pt").weights["module.a"] == 1
    torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.ones(1, 2)), tmp_path / "script.pt")
    with pytest.raises(CheckpointError, match="TorchScript"):
        read_source(tmp_path / "script.pt")
