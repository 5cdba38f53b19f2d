"""`--no-proof`: what nothing can prove is written unproved, says so everywhere, and is served if asked."""

import json
from pathlib import Path

import httpx
import onnx
import pytest

from export.errors import ParityError
from export_kit import assert_refused, run_here
from file_kit import model, node, norm, norm_arrays, value, weights
from service.contract.bundle import open_bundle
from service.contract.manifest import BundleError, parse_manifest
from service.contract.signature import TrustedKeys
from service.engine.engine import EngineConfig
from service.models.repository import Refused, load_version
from service_kit import serving, x_request

X = {"x": ["N", 3, 8, 8]}
Y = [value("y", ["N", 4, 6, 6])]
ARRAYS = {"w": weights(4, 3, 3, 3), **norm_arrays(4)}
CONV = [node("Conv", "x w", "h"), norm("h", "n")]
CUSTOM = model(
    [*CONV, node("Swirl", "n", "y", domain="com.example")], ARRAYS, X, Y, extra_domain="com.example"
)
LOG = model([node("Log", "x", "l"), node("Conv", "l w", "h"), norm("h", "y")], ARRAYS, X, Y)
MIXED = model([*CONV, node("Softmax", "n", "y", axis=0)], ARRAYS, X, Y)  # rows that depend on each other
WHY = {"custom": (CUSTOM, "Swirl"), "log": (LOG, "not finite"), "mixed": (MIXED, "not independent")}


def file_of(proto: onnx.ModelProto, folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    onnx.save(proto, folder / "in.onnx")
    return folder / "in.onnx"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unproved")
    flags = ("--mean", "0,0,0", "--std", "1,1,1")
    done = run_here("bundle", file_of(LOG, folder), "--to", folder / "models/log", "--no-proof", *flags)
    assert done.returncode == 0, done.stderr
    return folder / "models"


@pytest.mark.parametrize(("proto", "why"), WHY.values(), ids=WHY)
def test_what_cannot_be_proved_is_bundled_only_with_the_flag(tmp_path, proto, why):
    source = file_of(proto, tmp_path)
    for verb in (("bundle", source, "--to", tmp_path / "m"), ("fold", source, tmp_path / "out.onnx")):
        refused = run_here(*verb)
        if verb[0] == "bundle" or why != "not independent":  # a file's batch may be of one kind
            assert_refused(refused, why)
            assert "--no-proof would write it unproved" in refused.stderr
        done = run_here(*verb, "--no-proof")
        assert done.returncode == 0, done.stderr
        facts = json.loads(done.stdout)
        assert (facts["found"], facts["folded"]) == (1, 1)
    manifest = open_bundle(tmp_path / "m/1", allow_unproved=True).manifest
    assert why in manifest.unproved
    assert str(tmp_path) not in manifest.unproved, "clients read it"
    assert (manifest.schema_version, manifest.tolerances, manifest.max_rows) == (4, {}, 1)
    assert "Unproved: nothing shows" in (tmp_path / "m/1/report.html").read_text()
    assert "BatchNormalization" not in {one.op_type for one in onnx.load(tmp_path / "out.onnx").graph.node}


def test_what_can_be_proved_is_proved_whatever_the_flag_says(tmp_path, monkeypatch):
    source = file_of(model([*CONV, node("Relu", "n", "y")], ARRAYS, X), tmp_path)
    assert run_here("bundle", source, "--to", tmp_path / "m", "--no-proof").returncode == 0
    assert open_bundle(tmp_path / "m/1").manifest.unproved is None

    def fails(*unused: object, **also: object) -> None:
        raise ParityError("the folded graph is not the net")

    monkeypatch.setattr("export.bundle.folded.fold_proved", fails)
    assert_refused(run_here("bundle", source, "--to", tmp_path / "m", "--no-proof"), "is not the net")


@pytest.mark.parametrize(
    ("flags", "why"),
    [
        (("--dtype", "int8"), "--dtype int8 needs a proof, and there is none"),
        (("--labels", "labels"), "2 labels, but a row of 'y' is [4, 6, 6]"),
        (("--input-shape", "3,8..16/8,8"), "--no-proof is for sizes that are all fixed"),
    ],
)
def test_what_an_unproved_bundle_cannot_have(tmp_path, monkeypatch, flags, why):
    monkeypatch.chdir(tmp_path)
    Path("labels").write_text("cat\ndog\n")
    proto = model(CUSTOM.graph.node, ARRAYS, {"x": ["N", 3, "H", 8]}, Y, extra_domain="com.example")
    source = file_of(proto if "--input-shape" in flags else CUSTOM, tmp_path)
    assert_refused(run_here("bundle", source, "--to", "m", "--no-proof", *flags), why)
    assert not Path("m/1").exists()


def test_every_reader_refuses_it_or_says_so(models):
    bundle = models / "log/1"
    with pytest.raises(
        BundleError, match="it is unproved, which only a service with --allow-unproved serves"
    ):
        open_bundle(bundle)
    with pytest.raises(BundleError, match="there is none, and only signed bundles"):
        open_bundle(bundle, TrustedKeys([b"\0" * 32]), allow_unproved=True)
    done = run_here("verify", bundle)
    assert (done.returncode, json.loads(done.stdout)["proved"]) == (1, False)
    assert "not finite" in json.loads(run_here("show", bundle).stdout)["unproved"]
    text = (bundle / "manifest.json").read_bytes()
    for old, new in ((b'"unproved": "', b'"unproved": "x'), (b'"schema_version": 4', b'"schema_version": 3')):
        with pytest.raises(BundleError):
            parse_manifest(text.replace(old, new, 1), "manifest.json")
    refused = load_version(models / "log" / "1", "log", "1", EngineConfig())
    assert isinstance(refused, Refused)
    assert "--allow-unproved" in refused.reason


def test_it_is_served_only_when_asked_for(models):
    with serving(models, environment={"FOLDSERVE_ALLOW_UNPROVED": "true"}) as server:
        with httpx.Client(base_url=server.url) as client:
            assert "not finite" in client.get("/v2/models/log").json()["properties"]["unproved"]
            (seen,) = client.get("/models").json()["models"]
            assert "not finite" in seen["served"]["proof"]["unproved"]
            rows = x_request([1.0] * (2 * 3 * 8 * 8), shape=[2, 3, 8, 8])
            assert client.post("/v2/models/log/infer", json=rows).json()["outputs"][0]["shape"] == [
                2,
                4,
                6,
                6,
            ]
            assert 'foldserve_version_proved{model="log",version="1"} 0' in client.get("/metrics").text
        assert any("event=unproved model=log version=1 reason=" in line for line in server.lines)
        assert not any("event=proved" in line for line in server.lines)
