"""Files of weights: state dicts, safetensors, trainers' checkpoints; torn and dangerous ones are refused."""

import argparse
import collections
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fit_kit import few_digits, fresh_net
from training.runs.checkpoint import CheckpointError
from training.runs.source import read_source
from training.runs.weights_file import KEYS

FEW = few_digits()


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
    "a tuple": (WEIGHTS, {"epoch": 3}),
    "NumPy arrays": {"model": {name: value.numpy() for name, value in WEIGHTS.items()}, "__author__": "a"},
    "NumPy arrays, flat": {name: value.double().numpy() for name, value in WEIGHTS.items()},
    "an optimizer's tensors": {"optimizer": {"state": {0: {"exp_avg": torch.ones(1)}}}, "teacher": WEIGHTS},
}


@pytest.mark.parametrize("record", FORMS.values(), ids=FORMS)
def test_weights_are_found_wherever_they_are_the_only_ones(tmp_path, record):
    torch.save(record, tmp_path / "a.pt")
    found = read_source(tmp_path / "a.pt").weights
    assert found.keys() == WEIGHTS.keys()
    assert found["a"].all()


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_weights_that_were_split_are_read_by_their_index(tmp_path, kind):
    write = write_safetensors if kind == "safetensors" else lambda path, part: torch.save(part, path)
    names = {name: f"model-{place}-of-2.{kind}" for place, name in enumerate(WEIGHTS, 1)}
    for name, file in names.items():
        write(tmp_path / file, {name: WEIGHTS[name]})
    index = tmp_path / f"model.{kind}.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": names}))
    found = read_source(index).weights
    assert {name: value.tolist() for name, value in found.items()} == {"a": [1] * 2, "b": [1] * 3}
    for wrong in ("[]", "{", '{"weight_map": {}}', '{"weight_map": {"a": "../a.pt"}}'):
        index.write_text(wrong)
        with pytest.raises(CheckpointError, match="is no index of weights, which has a 'weight_map'"):
            read_source(index)


def test_two_nets_in_a_file_are_both_read_below_their_keys(tmp_path):
    torch.save({"generator": WEIGHTS, "d": {"a": torch.ones(1)}, "d_optim": WEIGHTS}, tmp_path / "a.pt")
    assert list(read_source(tmp_path / "a.pt").weights) == ["generator.a", "generator.b", "d.a"]


def test_arrays_of_numpy_by_name_are_weights(tmp_path):
    np.savez(tmp_path / "a.npz", **{name: value.numpy() for name, value in WEIGHTS.items()})
    found = read_source(tmp_path / "a.npz").weights
    assert {name: value.tolist() for name, value in found.items()} == {"a": [1] * 2, "b": [1] * 3}
    (tmp_path / "a.npz").write_bytes(b"PK")
    with pytest.raises(CheckpointError, match=r"a\.npz is no whole \.npz file"):
        read_source(tmp_path / "a.npz")


def test_safetensors_under_another_name_and_what_is_neither(tmp_path):
    write_safetensors(tmp_path / "pytorch_model.bin", WEIGHTS)
    assert read_source(tmp_path / "pytorch_model.bin").weights.keys() == WEIGHTS.keys()
    (tmp_path / "a.pt").write_text("hello")
    with pytest.raises(CheckpointError, match=r"neither torch\.save nor safetensors wrote it"):
        read_source(tmp_path / "a.pt")


@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_an_average_is_preferred_and_a_script_is_refused(tmp_path):
    torch.save({"model": {"a": torch.zeros(1)}, "model_ema": {"module.a": torch.ones(1)}}, tmp_path / "a.pt")
    assert read_source(tmp_path / "a.pt").weights["module.a"] == 1
    torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.ones(1, 2)), tmp_path / "script.pt")
    with pytest.raises(CheckpointError, match="TorchScript"):
        read_source(tmp_path / "script.pt")
