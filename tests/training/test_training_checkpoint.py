"""The checkpoint: what goes in comes out, and nothing else is taken for one."""

import io
import os
import zipfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from training.batchnorm.report import BatchNormLayer, BatchNormReport
from training.data import DataFacts
from training.files import OutputError, prepare_folder, publish
from training.loop.state import State
from training.nets import build_net, initialize
from training.runs.checkpoint import Checkpoint, CheckpointError, Resume, load_checkpoint, save_checkpoint

FACTS = DataFacts(
    name="digits", labels=list("0123456789"), input_shape=(1, 28, 28), mode="L", mean=[0.13], std=[0.31]
)
SETTINGS: dict[str, Any] = {"input_shape": (1, 28, 28), "num_classes": 10, "channels": (4, 8), "hidden": 16}


LAYER = BatchNormLayer(
    name="blocks.1",
    channels=4,
    values=640,
    mean_drift=0.25,
    variance_drift=1.5,
    smallest_variance=0.125,
    near_zero_variance=0,
    dead_gamma=1,
    negative_gamma=2,
)
REPORT = BatchNormReport(
    rows=64,
    accuracy_by_batch=0.75,
    accuracy_by_running=0.5,
    accuracy_recalibrated=None,
    layers=[LAYER],
)


@pytest.fixture
def checkpoint() -> Checkpoint:
    chance = torch.Generator().manual_seed(1)
    net = build_net("cnn", SETTINGS)
    initialize(net, chance)
    net.train()(torch.randn(16, 1, 28, 28, generator=chance))  # running statistics worth keeping
    return Checkpoint(
        net_name="cnn",
        net_settings=SETTINGS,
        state_dict=net.state_dict(),
        seed=3,
        epoch=2,
        metrics={"epoch": 2, "held_out_accuracy": 0.5},
        data=FACTS,
        held_out_pixels=torch.randint(0, 256, (50, 1, 28, 28), dtype=torch.uint8, generator=chance),
        held_out_labels=torch.arange(50) % 10,
        batchnorm=REPORT,
        resume=Resume(
            threads=2,
            config={"epochs": 4},
            history=[{"epoch": 1}, {"epoch": 2}],
            state=State(
                optimizer={"state": {0: {"momentum_buffer": torch.ones(3)}}, "param_groups": []},
                scaler={"scale": 1024.0},
                weights={"head.0.weight": torch.ones(2)},
                generators={"order": chance.get_state()},
            ),
        ),
    )


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


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    with pytest.raises(CheckpointError, match=f"no checkpoint at {tmp_path / 'none.pt'}"):
        load_checkpoint(tmp_path / "none.pt")
    with pytest.raises(CheckpointError, match=f"cannot read the checkpoint {tmp_path}: Is a directory"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize("kept", [0.0, 0.01, 0.5, 0.99, 0.99999])
def test_a_torn_file_is_refused_wherever_it_was_torn(path, kept):
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(CheckpointError, match="torn"):
        load_checkpoint(path)


def test_a_changed_byte_in_a_weight_is_found(path, checkpoint):
    content = bytearray(path.read_bytes())
    at = content.index(checkpoint.state_dict["head.0.weight"].numpy().tobytes())
    content[at + 100] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"the check sum of .* is wrong"):
        load_checkpoint(path)


def saved(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def zipped(name: str, content: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(name, content)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        b"\x00" * 4096,
        b"<html>not found</html>",
        zipped("readme.txt", b"hello"),
        zipped("archive/data.pkl", b"not a pickle"),
        saved({"weight": torch.zeros(3)}),
        saved([1, 2, 3]),
        saved(Path("would need code")),
    ],
    ids=["zeros", "html", "zip", "zip with a bad pickle", "weights alone", "a list", "an object"],
)
def test_other_files_are_not_taken_for_a_checkpoint(tmp_path, content):
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="not a checkpoint"):
        load_checkpoint(path)


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


def rewrite(path: Path, **changes: Any) -> None:
    record = torch.load(path, weights_only=True) | changes
    torch.save({key: value for key, value in record.items() if value is not ...}, path)


PLAIN_FACTS = {
    "name": "digits",
    "labels": ["a", "b"],
    "input_shape": (1, 28, 28),
    "mode": "L",
    "mean": [0.1],
    "std": [0.3],
}


PLAIN_REPORT = asdict(REPORT)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"seed": ...}, "seed is missing"),
        ({"color": 1}, "color is unknown"),
        ({"epoch": "2"}, "epoch must be int, got str"),
        ({"epoch": True}, "epoch must be int, got bool"),
        ({"state_dict": {"w": 1}}, "state_dict must be"),
        ({"metrics": []}, "metrics must be"),
        ({"data": None}, "data must be a dict, got NoneType"),
        ({"data": PLAIN_FACTS | {"mode": "CMYK"}}, "data: mode must be"),
        ({"data": PLAIN_FACTS | {"labels": [1, 2]}}, "data: labels must be"),
        ({"data": PLAIN_FACTS | {"input_shape": (1, 28)}}, "data: input_shape must be"),
        ({"data": PLAIN_FACTS | {"std": [-1.0]}}, "data: std must be positive"),
        ({"data": PLAIN_FACTS}, "held_out_labels must lie in 0 .. 1"),
        ({"resume": {}}, "resume: config is missing"),
        ({"resume": 3}, "resume must be a dict, got int"),
        ({"batchnorm": {"rows": 3}}, "batchnorm: accuracy_by_batch is missing"),
        ({"batchnorm": PLAIN_REPORT | {"layers": {}}}, "batchnorm: layers must be"),
        ({"batchnorm": PLAIN_REPORT | {"accuracy_recalibrated": "1"}}, "accuracy_recalibrated must be float"),
        (
            {"batchnorm": PLAIN_REPORT | {"layers": [{"name": "a"}]}},
            "batchnorm: layers 0: channels is missing",
        ),
        ({"held_out_pixels": torch.zeros(50, 1, 28, 28)}, "held_out_pixels must be uint8"),
        ({"held_out_labels": torch.zeros(7, dtype=torch.int64)}, "held_out_labels must be 50"),
    ],
)
def test_a_wrong_key_is_named(path, changes, told):
    rewrite(path, **changes)
    with pytest.raises(CheckpointError, match=f"^{path}: .*{told}"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"net_name": "cnnn"}, "unknown net 'cnnn'"),
        ({"net_settings": SETTINGS | {"hidden": 17}}, "size mismatch for head.0.weight"),
        ({"net_settings": {"num_classes": 10}}, "input_shape"),
    ],
)
def test_weights_that_do_not_fit_the_net_are_refused_in_one_line(path, changes, told):
    rewrite(path, **changes)
    with pytest.raises(CheckpointError, match=told) as caught:
        load_checkpoint(path).build_net()
    assert "\n" not in str(caught.value)


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
