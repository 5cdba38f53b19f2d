"""torch's two exporters, at defaults and with what people set: file → fold → proof → bundle → served answer.

The truth is the net itself in torch, float64.
"""

import json
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import numpy as np
import pytest
import torch
from torch.export import Dim

from export_kit import run_here
from exporter_nets import NETS, Exported
from foldserve.client import Client
from service.contract.bundle import open_bundle
from service_kit import serving

EVAL, PRESERVE = torch.onnx.TrainingMode.EVAL, torch.onnx.TrainingMode.PRESERVE
NUM_ROWS = 3

OLD: dict[str, dict[str, Any]] = {
    "old-default": {},
    "old-9": {"opset_version": 9, "dynamic": True},
    "old-11-preserve": {"opset_version": 11, "training": PRESERVE, "do_constant_folding": False},
    "old-13-no-constants": {"opset_version": 13, "do_constant_folding": False, "dynamic": True},
    "old-17-preserve": {"opset_version": 17, "training": PRESERVE, "dynamic": True},
    "old-20-keep-initializers": {"opset_version": 20, "keep_initializers_as_inputs": True, "dynamic": True},
    "old-all-dynamic": {"opset_version": 17, "dynamic": True, "training": PRESERVE, "places": True},
}
NEW: dict[str, dict[str, Any]] = {
    "default": {},
    "dynamic": {"dynamic": True},
    "raw": {"dynamic": True, "optimize": False},
    "raw-inside": {"optimize": False, "external_data": False},
    "opset-21": {"dynamic": True, "opset_version": 21},
    "opset-23": {"dynamic": True, "opset_version": 23, "optimize": False},
    "all-dynamic": {"dynamic": True, "places": True, "optimize": False},
}
WIDE = ("view", "segmentation")
"""Exported in every way; the other nets in those that differ for them."""
SIZES = {"view": "3,16,16", "segmentation": "3,16..32/8,16..24/8"}
"""What is given where the file leaves height and width open; a view of fixed length has one size."""
SOME = ("old-17-preserve", "default", "raw")
OLD_CANNOT = {("segmentation", "old-9")}  # no such Resize at opset 9
CASES = [
    (name, how)
    for name in NETS
    for how in (*OLD, *NEW)
    if (name in WIDE or how in SOME) and (name, how) not in OLD_CANNOT
]


def export(case: Exported, how: str, path: Path) -> None:
    """Write the file as a user would, with one row to trace."""
    options = dict(OLD.get(how, NEW.get(how, {})))
    dynamic, places = options.pop("dynamic", False), options.pop("places", False)
    names = ["x", "facts"][: len(case.row_shapes)]
    axes = {0: "n", **({2: "h", 3: "w"} if places else {})}
    if how in OLD:
        options["dynamo"] = False
        options["dynamic_axes"] = dict.fromkeys(names, axes) if dynamic else None
    elif dynamic:
        auto = {axis: Dim.DYNAMIC if axis == 0 else Dim.AUTO for axis in axes}
        options["dynamic_shapes"] = tuple(auto for _ in names)
    rows = case.rows(2 if dynamic and how in NEW else 1)  # the new one takes a size of 1 for fixed
    torch.onnx.export(case.net(), rows, path, input_names=names, verbose=False, **options)


@dataclass(frozen=True)
class Road:
    """What became of each file, and a server of all their bundles."""

    done: dict[str, CompletedProcess[str]]
    models: Path
    client: Client


@pytest.fixture(scope="module")
def road(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Road]:
    folder, models = tmp_path_factory.mktemp("files"), tmp_path_factory.mktemp("models")
    done = {}
    for name, how in CASES:
        file = folder / f"{name}-{how}.onnx"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's own, of its exporters
            export(NETS[name], how, file)
        shape = ["--input-shape", SIZES[name]] if how in ("old-all-dynamic", "all-dynamic") else []
        done[file.stem] = run_here("bundle", file, "--to", models / file.stem, *shape)
    with serving(models) as server, Client(server.url) as client:
        yield Road(done, models, client)


def truth(case: Exported, rows: tuple[torch.Tensor, ...]) -> list[np.ndarray]:
    net = case.net().double()
    with torch.no_grad():
        answers = net(*(row if row.dtype == torch.uint8 else row.double() for row in rows))
    return [answer.numpy() for answer in (answers if isinstance(answers, tuple) else (answers,))]


@pytest.mark.parametrize(("name", "how"), CASES)
def test_a_file_of_torch_is_served_as_the_net_answers(road: Road, name: str, how: str) -> None:
    model, case = f"{name}-{how}", NETS[name]
    done = road.done[model]
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["folded"] + found["reduced"] == found["found"], done.stderr
    manifest = open_bundle(road.models / model / "1").manifest
    assert manifest.max_rows is None, "rows of one file are answered together"
    rows = case.rows(NUM_ROWS)
    given = {spec.name: row.numpy() for spec, row in zip(manifest.inputs, rows, strict=True)}
    outputs = road.client.infer(model, given).outputs
    for spec, expected in zip(manifest.outputs, truth(case, rows), strict=True):
        assert outputs[spec.name].shape == expected.shape
        worst = np.abs(outputs[spec.name].astype(np.float64) - expected).max()
        # The manifest's tolerance is for its own rows: these are others, of the same range.
        assert worst <= (4 * manifest.tolerances[spec.name].max_abs if spec.dtype.startswith("f") else 0)


def test_most_files_bring_batchnorms_to_fold(road: Road) -> None:
    """Else the test above would prove exporters that fold on their own."""
    found = {model: json.loads(done.stdout)["found"] for model, done in road.done.items()}
    for name in NETS:
        largest = max(count for model, count in found.items() if model.startswith(f"{name}-"))
        assert largest >= (1 if name == "recurrent" else 2), name
