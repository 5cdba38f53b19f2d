"""Files that are no checkpoint, or a broken one, are refused with what is wrong."""

import io
import zipfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from checkpoint_kit import REPORT, SETTINGS, new_checkpoint, rewrite
from training.runs.checkpoint import Checkpoint, CheckpointError, load_checkpoint, save_checkpoint


@pytest.fixture
def checkpoint() -> Checkpoint:
    return new_checkpoint()


@pytest.fixture
def path(tmp_path: Path, checkpoint: Checkpoint) -> Path:
    save_checkpoint(tmp_path / "checkpoint.pt", checkpoint)
    return tmp_path / "checkpoint.pt"


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
