"""Loading, proving, refusing and starting, in real processes."""

import contextlib
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from service_kit import ROOT, Server, metric, one_sentence, responds, serving, start, wait_until, x_request
from tiny_nets import busy_net, digits_net, echo_net, nudged, write_bundle

FOR_EVER = 1e7


def reason(server: Server) -> str:
    """Why the server is not ready; it is live all the same."""
    assert httpx.get(f"{server.url}/v2/health/live").status_code == 200
    answer = httpx.get(f"{server.url}/v2/health/ready")
    assert answer.status_code == 503
    assert answer.json()["ready"] is False
    assert int(answer.headers["retry-after"]) >= 1
    return str(answer.json()["error"])


def test_a_nudged_weight_is_not_served(tmp_path: Path) -> None:
    net = digits_net()
    write_bundle(tmp_path / "digits" / "1", net, graph=nudged(net))
    with serving(tmp_path) as server, httpx.Client(base_url=server.url) as client:
        assert "model 'digits' version 1 is not served: output 'logits' differs" in reason(server)
        assert "the tolerance is 0.0001" in reason(server)
        for path in ("/v2/models/digits", "/v2/models/digits/ready", "/v2/models/digits/versions/1/ready"):
            assert httpx.get(server.url + path).status_code == 503
        answer = httpx.post(f"{server.url}/v2/models/digits/infer", content=b"{}")
        assert (answer.status_code, "differs" in answer.json()["error"]) == (503, True)
        assert metric(client, 'foldserve_version_proved{model="digits",version="1"}') == 0


def test_case_23_an_older_version_goes_on_serving(tmp_path: Path) -> None:
    net = digits_net()
    write_bundle(tmp_path / "digits" / "9", net)
    write_bundle(tmp_path / "digits" / "10", net, graph=nudged(net))
    with serving(tmp_path) as server, httpx.Client(base_url=server.url) as client:
        url = f"{server.url}/v2/models/digits"
        assert httpx.get(f"{server.url}/v2/health/ready").status_code == 200
        assert httpx.get(url).json()["versions"] == ["9"]
        assert httpx.get(f"{url}/versions/9/ready").status_code == 200
        newest = httpx.get(f"{url}/versions/10/ready")
        assert (newest.status_code, "differs" in newest.json()["error"]) == (503, True)
        assert metric(client, 'foldserve_version_proved{model="digits",version="10"}') == 0
        assert metric(client, 'foldserve_version_proved{model="digits",version="9"}') == 1
        assert any("event=refused model=digits version=10" in line for line in server.lines)


def spoil(folder: Path, what: str) -> None:
    """Break a bundle in one way."""
    manifest = json.loads((folder / "manifest.json").read_text())
    if what == "changed byte":
        graph = bytearray((folder / "model.onnx").read_bytes())
        graph[len(graph) // 2] ^= 1
        (folder / "model.onnx").write_bytes(graph)
        return
    if what == "half-copied":
        (folder / "golden.npz").unlink()
        return
    if what == "no manifest":
        (folder / "manifest.json").unlink()
        return
    if what == "unknown key":
        manifest["colour"] = "blue"
    elif what == "mistyped key":
        manifest["inputs"][0]["dtype"] = 32
    elif what == "wrong shape":
        manifest["outputs"][0]["name"] = "probabilities"
        manifest["tolerances"] = {"probabilities": manifest["tolerances"]["logits"]}
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("changed byte", "model.onnx: sha-256 is"),
        ("half-copied", "golden.npz: No such file"),
        ("no manifest", "manifest.json: No such file"),
        ("unknown key", "colour: Extra inputs are not permitted"),
        ("mistyped key", "inputs.0.dtype: Input should be"),
        ("wrong shape", "output.probabilities"),
    ],
)
def test_case_28_a_spoilt_bundle_is_refused_and_the_others_are_served(
    tmp_path: Path, what: str, message: str
) -> None:
    spoil(write_bundle(tmp_path / "digits" / "1", digits_net()), what)
    write_bundle(tmp_path / "echo" / "1", echo_net("float32"))
    with serving(tmp_path) as server:
        assert message in reason(server)
        answer = httpx.post(f"{server.url}/v2/models/echo/infer", json=x_request([1, 2, 3]))
        assert answer.status_code == 200
        assert httpx.get(f"{server.url}/v2/models/echo/ready").status_code == 200


def test_case_22_folders_that_are_no_models(tmp_path: Path) -> None:
    write_bundle(tmp_path / "stats" / "1", echo_net("float32"))
    with serving(tmp_path) as server:
        assert "the name 'stats' belongs to a route" in reason(server)


@pytest.mark.parametrize("versions", [[], ["0", "01", "v1", "1.0", "-1", "²"]])
def test_case_22_a_model_without_versions(tmp_path: Path, versions: list[str]) -> None:
    (tmp_path / "digits").mkdir()
    for version in versions:
        write_bundle(tmp_path / "digits" / version, digits_net())
    with serving(tmp_path) as server:
        assert "model 'digits' is not served: its folder holds no version" in reason(server)


def test_what_a_file_system_leaves_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "lost+found").mkdir()
    with serving(tmp_path) as server:
        assert reason(server) == "the models folder holds no model"


def test_a_name_that_is_not_utf_8_harms_no_other_model(tmp_path: Path) -> None:
    """It could stand in no answer: the repository's index was an internal error."""
    write_bundle(tmp_path / "digits" / "1", digits_net())
    (tmp_path / os.fsdecode(b"bad\xff")).mkdir()
    with serving(tmp_path, "--readiness", "lenient") as server:
        index = httpx.post(f"{server.url}/v2/repository/index").json()
        reasons = {entry["name"]: entry["reason"] for entry in index}
        assert reasons == {"digits": "", "bad\ufffd": "its folder's name is not UTF-8"}


def test_6_1_3_no_path_reaches_a_client(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "digits" / "1", digits_net())
    (folder / "golden.npz").write_bytes(b"changed")
    with serving(tmp_path) as server:
        assert "golden.npz: sha-256 is" in reason(server)
        assert str(tmp_path) not in reason(server)


def test_an_empty_folder_is_live_and_not_ready(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        assert reason(server) == "the models folder holds no model"
        answer = httpx.post(f"{server.url}/predict", content=b"x")
        assert (answer.status_code, list(answer.json())) == (400, ["error"])


def test_live_while_loading_and_sigterm_then(tmp_path: Path) -> None:
    write_bundle(tmp_path / "busy" / "1", busy_net(golden_steps=int(FOR_EVER)))
    server = Server(tmp_path)
    try:
        wait_until(lambda: responds(server.url), "it listens")
        assert "model 'busy' is loading" in reason(server)
        assert httpx.get(f"{server.url}/v2/models/busy/ready").status_code == 503
        server.terminate()
        assert server.wait() == 0
    finally:
        server.close()


def test_a_missing_folder_is_one_sentence(tmp_path: Path) -> None:
    one_sentence(start("--models", str(tmp_path / "nope")), "there is no folder")


def test_case_42_a_port_in_use_is_one_sentence(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        one_sentence(start("--models", str(tmp_path), "--port", port), "Address already in use")


def test_a_host_that_is_not_ours_is_one_sentence(tmp_path: Path) -> None:
    one_sentence(start("--models", str(tmp_path), "--host", "host.invalid"), "cannot listen on host.invalid")


def test_case_43_two_servers_in_one_host(tmp_path: Path) -> None:
    write_bundle(tmp_path / "echo" / "1", echo_net("float32"))
    with serving(tmp_path) as one, serving(tmp_path) as other:
        assert one.port != other.port


def test_the_service_loads_neither_torch_nor_onnx() -> None:
    modules = "{'torch', 'onnx', 'export'} & set(sys.modules)"
    code = f"import sys, service.processes.serve; print(sorted({modules}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_rollout_to_a_bad_bundle_ends_with_the_reason_and_costs_nothing(tmp_path: Path) -> None:
    """What a new pod is told to do (deploy/kubernetes): the old one answers all the while."""
    net = digits_net()
    write_bundle(tmp_path / "old" / "digits" / "1", net)
    write_bundle(tmp_path / "new" / "digits" / "2", net, graph=nudged(net))
    flags = ("--exit-unless-ready", "--drain-delay-s", "1")
    with serving(tmp_path / "old", *flags) as old:
        new = Server(tmp_path / "new", *flags)
        try:
            statuses, code = {"old": set(), "new": set()}, None
            while (code := new.process.poll()) is None:
                for name, server in (("old", old), ("new", new)):
                    with contextlib.suppress(httpx.TransportError):
                        statuses[name].add(httpx.get(f"{server.url}/v2/health/ready").status_code)
            new.wait()
        finally:
            new.close()
        assert statuses == {"old": {200}, "new": {503}}, "it never turned ready"
        assert code == 3
        assert "event=not_ready" in new.lines[-1]
        assert "model 'digits' version 2 is not served: output 'logits' differs" in new.lines[-1]
        assert len(new.lines[-1]) < 1024, "of an event's message Kubernetes shows no more"
    one_sentence(
        start("--models", str(tmp_path / "new"), "--exit-unless-ready", "--workers", "2"), "needs one worker"
    )
