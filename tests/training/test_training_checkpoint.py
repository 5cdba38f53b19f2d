"""The checkpoint: what goes in comes out, in a file that takes the old one's place whole."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from checkpoint_kit import FACTS, REPORT, SETTINGS, new_checkpoint, rewrite
from training.files import OutputError, prepare_folder, publish
from training.nets import build_net
from training.runs.checkpoint import Checkpoint, CheckpointError, load_checkpoint, save_checkpoint


@pytest.fixture
def checkpoint() -> Checkpoint:
    return new_checkpoint()


@pytest.fixture
def path(tmp_path: Path, checkpoint: Checkpoint) -> Path:
    save_checkpoint(tmp_path / "checkpoint.pt", checkpoint)
    return tmp_path / "checkpoint.pt"


def test_what_goes_in_comes_out(path, checkpoint):
    loaded = load_checkpoint(path)
    assert (loaded.net_name, loaded.net_settings) == ("cnn", SETTINGS)
    assert (loaded.seed, loaded.epoch, loaded.metrics) == (3, 2, {"epoch": 2, "held_out_accuracy": 0.5})
    assert loaded.data == FACTS
    assert torch.equal(loaded.held_out_pixels, checkpoint.held_out_pixels)
    assert torch.equal(loaded.held_out_labels, checkpoint.held_out_labels)
    assert loaded.batchnorm == REPORT
    assert loaded.resume.config == {"epochs": 4}
    assert loaded.resume.history == [{"epoch": 1}, {"epoch": 2}]
    state, before = loaded.resume.state, checkpoint.resume.state
    assert torch.equal(state.optimizer["state"][0]["momentum_buffer"], torch.ones(3))
    assert torch.equal(state.weights["head.0.weight"], torch.ones(2))
    assert torch.equal(state.generators["order"], before.generators["order"])
    assert state.scaler == before.scaler


def test_the_net_is_rebuilt_from_the_file_alone(path, checkpoint):
    net = load_checkpoint(path).build_net()
    twin = build_net("cnn", SETTINGS).eval()
    twin.load_state_dict(checkpoint.state_dict)
    rows = torch.randn(4, 1, 28, 28, generator=torch.Generator().manual_seed(2))
    assert not any(module.training for module in net.modules())
    assert torch.equal(net(rows), twin(rows))


def test_torch_opens_it_without_running_code(path):
    record = torch.load(path, weights_only=True)
    assert record["format"] == "foldserve checkpoint"
    assert record["schema_version"] == 2


def test_the_same_checkpoint_is_the_same_bytes(path, checkpoint):
    other = path.with_name("another-name.pt")
    save_checkpoint(other, checkpoint)
    assert other.read_bytes() == path.read_bytes()


def test_another_schema_version_is_named(path):
    rewrite(path, schema_version=3)
    with pytest.raises(CheckpointError, match="has schema_version 3, this reader knows 1 and 2"):
        load_checkpoint(path)


def test_a_file_of_version_1_still_gives_its_net_but_cannot_be_gone_on_with(path, checkpoint):
    old = {"config": {}, "threads": 2, "history": [], "optimizer": {}, "generators": {}}
    rewrite(path, schema_version=1, resume=old, batchnorm=...)
    loaded = load_checkpoint(path)
    assert (loaded.batchnorm, loaded.resume) == (None, None)
    weights = loaded.build_net().state_dict()
    assert all(torch.equal(checkpoint.state_dict[key], value) for key, value in weights.items())


def test_a_write_that_fails_leaves_the_last_good_file_and_nothing_else(path, checkpoint, monkeypatch):
    before = path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match=f"cannot write {path}: No space left on device"):
        save_checkpoint(path, replace(checkpoint, epoch=9))
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == ["checkpoint.pt"]


def test_a_checkpoint_that_its_own_reader_refuses_is_not_published(path, checkpoint):
    before = path.read_bytes()
    with pytest.raises(CheckpointError, match="metrics must be"):
        save_checkpoint(path, replace(checkpoint, metrics=None))
    assert path.read_bytes() == before


def test_publishing_puts_a_new_file_in_place_of_the_old_one(tmp_path):
    publish(tmp_path / "file", b"long before")
    with (tmp_path / "file").open("rb") as reader:
        publish(tmp_path / "file", b"after")
        assert reader.read() == b"long before"  # who reads the old file is not disturbed
    assert (tmp_path / "file").read_bytes() == b"after"


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match=f"cannot write into {tmp_path / 'file' / 'run'}: Not a directory"):
        prepare_folder(tmp_path / "file" / "run")
