"""Nets of several inputs, of ids and masks, of dicts and lists."""

import json
from functools import partial

import httpx
import numpy as np
import onnxruntime as ort
import pytest
import torch
from torch import nn

from export_kit import assert_refused, run_here
from own_net_kit import answers, offer
from service.contract.bundle import open_bundle
from service_kit import serving

NUM_IDS = 50
FLAGS = ("--input-shape", "image=3,8,8", "--input-shape", "ids=5")


class _Both(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.table, self.head, self.last = nn.Embedding(NUM_IDS, 6), nn.Linear(10, 4), nn.BatchNorm1d(4)

    def both(self, image, ids):
        seen = torch.relu(self.norm(self.conv(image))).mean((2, 3))
        return self.last(self.head(torch.cat([seen, self.table(ids).mean(1)], 1)))


class Plain(_Both):
    def forward(self, image, ids, scale=1.0):
        return self.both(image, ids) * scale


class Keywords(_Both):
    def forward(self, image=None, *, ids=None):
        return self.both(image, ids)


class Dict(_Both):
    def forward(self, batch):
        return self.both(batch["image"], batch["ids"])


class Part(_Both):
    def forward(self, image, meta):
        return self.both(image, meta["ids"])


class Listed(_Both):
    def forward(self, parts):
        image, ids = parts
        return self.both(image, ids)


class Starred(_Both):
    def forward(self, *parts):
        return self.both(*parts)


class StarredWords(_Both):
    def forward(self, **parts):
        return self.both(**parts)


@pytest.fixture
def made(monkeypatch):
    return partial(offer, monkeypatch)


def some_rows(number=3):
    chance = np.random.default_rng(0)
    image = chance.normal(size=(number, 3, 8, 8)).astype(np.float32)
    return image, chance.integers(0, NUM_IDS, size=(number, 5))


@pytest.mark.parametrize(
    ("kind", "image", "ids"),
    [
        (Plain, "image", "ids"),
        (Plain, "image=1", "ids=1"),
        (Plain, "image=N", "ids=N"),
        (Keywords, "image", "ids"),
        (Dict, "image", "ids"),
        (Dict, "batch.image", "batch.ids"),
        (Part, "image", "meta.ids"),
        (Listed, "0", "1"),
        (Listed, "parts.0", "parts.1"),
        (Starred, "a", "b"),
        (StarredWords, "image", "ids"),
    ],
)
def test_a_net_of_several_inputs_is_bundled(tmp_path, made, kind, image, ids):
    net = made(kind)
    sizes = {image: "3,8,8", ids: "5"}
    flags = [f"--input-shape={name}{',' if '=' in name else '='}{shape}" for name, shape in sizes.items()]
    image, ids = image.partition("=")[0], ids.partition("=")[0]
    done = run_here("bundle", "mine:make", "--to", tmp_path / "m", *flags)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["folded"] == 2
    bundle = open_bundle(tmp_path / "m/1")
    specs = {spec.name: spec for spec in bundle.manifest.inputs}
    assert [(specs[name].dtype, specs[name].shape[1:]) for name in (image, ids)] == [
        ("float32", [3, 8, 8]),
        ("int64", [5]),
    ]
    golden = bundle.golden.inputs[ids]
    assert golden.max() == NUM_IDS - 1, "golden rows read the whole table"
    assert golden.min() == 0
    pixels, numbers = some_rows()
    with torch.no_grad():
        expected = net.both(torch.from_numpy(pixels), torch.from_numpy(numbers)).numpy()
    np.testing.assert_allclose(answers(tmp_path / "m", {image: pixels, ids: numbers})[0], expected, atol=1e-5)
    assert run_here("verify", tmp_path / "m").returncode == 0
    assert run_here("verify", "mine:make", *flags).returncode == 0


def test_it_is_served(tmp_path, made):
    net = made(Plain)
    assert run_here("bundle", "mine:make", "--to", tmp_path / "models/m", *FLAGS).returncode == 0
    image, ids = some_rows()
    document = {
        "inputs": [
            {"name": "image", "datatype": "FP32", "shape": [3, 3, 8, 8], "data": image.ravel().tolist()},
            {"name": "ids", "datatype": "INT64", "shape": [3, 5], "data": ids.ravel().tolist()},
        ]
    }
    with serving(tmp_path / "models") as server:
        reply = httpx.post(f"{server.url}/v2/models/m/infer", json=document, timeout=60).json()
    with torch.no_grad():
        expected = net(torch.from_numpy(image), torch.from_numpy(ids)).numpy()
    served = np.array(reply["outputs"][0]["data"]).reshape(3, 4)
    np.testing.assert_allclose(served, expected, atol=1e-5)


class Masked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.norm = nn.Embedding(9, 4), nn.BatchNorm1d(4)

    def forward(self, ids, mask=None):
        seen = self.norm(self.table(ids).transpose(1, 2))
        return seen.mean(2) if mask is None else seen.masked_fill(mask[:, None], 0.0).mean(2)


@pytest.mark.parametrize(
    ("flags", "types"),
    [
        (["--input-shape", "5"], {"input": "int64"}),
        (["--input-shape", "5", "--input-type", "int32"], {"input": "int32"}),
        (["--input-shape", "ids=5", "--input-shape", "mask=5"], {"ids": "int64", "mask": "bool"}),
        (["--rows", "rows.npz"], {"ids": "int32", "mask": "bool"}),
    ],
)
def test_types_are_found_by_running_or_given(tmp_path, made, monkeypatch, flags, types):
    monkeypatch.chdir(tmp_path)
    ids, mask = np.arange(20, dtype=np.int32).reshape(4, 5) % 9, np.eye(4, 5, dtype=bool)
    np.savez("rows.npz", mask=mask, ids=ids)
    net = made(Masked)
    done = run_here("bundle", "mine:make", "--to", tmp_path / "m", *flags)
    assert done.returncode == 0, done.stderr
    bundle = open_bundle(tmp_path / "m/1")
    assert {spec.name: spec.dtype for spec in bundle.manifest.inputs} == types
    if "--rows" in flags:
        np.testing.assert_array_equal(bundle.golden.inputs["ids"][:4], ids)
    rows = {name: (mask if name == "mask" else ids.astype(dtype)) for name, dtype in types.items()}
    with torch.no_grad():
        expected = net(*(torch.from_numpy(rows[name]) for name in types)).numpy()
    np.testing.assert_allclose(answers(tmp_path / "m", rows)[0], expected, atol=1e-6)
    assert run_here("fold", "mine:make", tmp_path / "out.onnx", *flags).returncode == 0


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--input-shape", "3,8,8"], "Plain takes 'ids' too, which has no shape: --input-shape image=C,H,W "),
        (["--input-shape", "image=3,8,8"], "Plain takes 'ids' too"),
        ([*FLAGS, "--input-shape", "z=2"], "Plain takes 'image', 'ids', 'scale', found 'z'"),
        ([*FLAGS, "--input-shape", "2"], "must name each input of a net of several"),
        (
            ["--input-shape", "image=3,x,8", "--input-shape", "ids=5"],
            "one N at most, where its rows are, found 'x'",
        ),
        (["--input-shape", "image=N,N,8", "--input-shape", "ids=5"], "where its rows are, found two"),
        (["--input-shape", "image=3,8..9,8", "--input-shape", "ids=5"], "where its rows are, found a range"),
        ([*FLAGS, "--input-type", "id=int64"], "--input-type id: no --input-shape"),
        ([*FLAGS, "--input-type", "ids=text"], "--input-type: expected NAME=TYPE, each name once"),
        (
            [*FLAGS, "--input-type", "ids=float32"],
            "of shape image [2, 3, 8, 8] float32, ids [2, 5]",
        ),
        ([*FLAGS, "--rows", "none.npz"], "--rows cannot be read as an .npz file"),
        ([*FLAGS, "--rows", "rows.npz"], "array 'ids' of --rows has rows of [4], --input-shape says [5]"),
        (["--rows", "one.npz"], "has the shape [1, 3, 8, 8] of float32, expected at least two rows"),
    ],
)
def test_inputs_that_do_not_fit_say_what_to_do(tmp_path, made, monkeypatch, flags, sentence):
    monkeypatch.chdir(tmp_path)
    image, ids = some_rows()
    np.savez("rows.npz", image=image, ids=ids[:, :4])
    np.savez("one.npz", image=image[:1], ids=ids[:1, :4])
    made(Plain)
    assert_refused(run_here("fold", "mine:make", "o.onnx", *flags), sentence)


def test_an_onnx_file_says_its_types_itself(tmp_path):
    file = tmp_path / "in.onnx"
    file.touch()
    for verb in (("fold", file, tmp_path / "out.onnx"), ("bundle", file, "--to", tmp_path / "m")):
        assert_refused(run_here(*verb, "--input-type", "x=int64"), "says the types of its inputs")


def test_finding_a_type_leaves_the_net_as_it_was(made):
    """A run that fails may have counted already."""
    from export.sources.net_inputs import NetInput, inputs_of

    class Counting(Masked):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("runs", torch.zeros(()))
            self.kept = []

        def forward(self, ids):
            self.runs += 1
            self.kept.append(ids)
            return super().forward(ids)

    net = made(Counting)
    inputs_of(net, [NetInput(row_shape=(5,))])
    assert (float(net.runs), net.kept) == (0.0, [])


PIXELS = ("--mean", "0.5,0.4,0.3", "--std", "0.2,0.3,0.2")


@pytest.mark.parametrize("first", ["image=3,8,8", "image=1,3,8,8"])
def test_pictures_become_the_first_input(tmp_path, made, first):
    net = made(Plain)
    ids = "ids=1,5" if "1," in first else "ids=5"
    flags = ("--input-shape", ids, "--input-shape", first, *PIXELS)  # the order is that of forward
    done = run_here("bundle", "mine:make", "--to", tmp_path / "m", *flags)
    assert done.returncode == 0, done.stderr
    assert open_bundle(tmp_path / "m/1").manifest.inputs[0].layout == "NCHW"
    done = run_here("fold", "mine:make", tmp_path / "out.onnx", *flags, "--inputs", "uint8")
    assert done.returncode == 0, done.stderr
    pixels = np.random.default_rng(0).integers(0, 256, size=(3, 3, 8, 8)).astype(np.uint8)
    numbers = some_rows()[1]
    session = ort.InferenceSession(tmp_path / "out.onnx", providers=["CPUExecutionProvider"])
    (answer,) = session.run(None, {"image": pixels, "ids": numbers})
    mean, std = (torch.tensor(part).reshape(-1, 1, 1) for part in ([0.5, 0.4, 0.3], [0.2, 0.3, 0.2]))
    with torch.no_grad():
        expected = net((torch.from_numpy(pixels) / 255 - mean) / std, torch.from_numpy(numbers)).numpy()
    np.testing.assert_allclose(answer, expected, atol=1e-5)
