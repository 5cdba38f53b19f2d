"""What `--models` may name: a folder of models, one model's folder, or one bundle, as mounts have them."""

from pathlib import Path

import httpx
import pytest

from in_process_kit import inside
from service.engine.engine import EngineConfig
from service.models import repository
from service.models.folder import ModelsFolder
from service_kit import one_sentence, start, wait_until, x_request
from tiny_nets import echo_net, write_bundle


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for version in ("1", "12"):
        write_bundle(tmp_path / "models" / "echo" / version, echo_net("float32"))
    return tmp_path / "models"


@pytest.mark.parametrize(
    ("path", "flags", "name", "version"),
    [
        ("", (), "echo", "12"),
        ("echo", (), "echo", "12"),
        ("echo", ("--model-name", "digits"), "digits", "12"),
        ("echo/1", (), "echo", "1"),
        ("echo/1", ("--model-name", "my model"), "my model", "1"),
    ],
)
def test_each_layout_is_served(
    tree: Path, path: str, flags: tuple[str, ...], name: str, version: str
) -> None:
    with inside(tree / path, *flags) as server, httpx.Client(base_url=server.url) as client:
        assert client.get("/v2/health/ready").status_code == 200
        answer = client.post(f"/v2/models/{name}/infer", json=x_request([1, 2, 3]))
        assert (answer.status_code, answer.headers["x-model-version"]) == (200, version)
        (index, *_) = client.post("/v2/repository/index").json()
        assert (index["name"], index["version"], index["state"]) == (name, version, "READY")
        assert client.get("/models").json()["models"][0]["name"] == name


def test_a_bundle_in_a_mount_is_version_1(tmp_path: Path) -> None:
    """/mnt/models itself is the bundle, or holds one version: its name is the mount's unless one is given."""
    write_bundle(tmp_path / "mnt" / "models", echo_net("float32"))
    bare = ModelsFolder.find(tmp_path / "mnt" / "models", "digits")
    assert (bare.names(), bare.versions("digits")) == (["digits"], ["1"])
    assert bare.version("digits", "1") == tmp_path / "mnt" / "models"
    assert ModelsFolder.find(tmp_path / "mnt" / "models").names() == ["models"]


def test_models_that_are_numbers_are_no_versions(tmp_path: Path) -> None:
    write_bundle(tmp_path / "7" / "1", echo_net("float32"))
    assert ModelsFolder.find(tmp_path).names() == ["7"]


def test_a_name_for_a_folder_of_models_is_refused(tree: Path) -> None:
    refused = start("--models", str(tree), "--model-name", "digits", "--port", "0")
    one_sentence(refused, "is a folder of models: model_name names a lone bundle or model")


def test_a_load_that_lasts_says_so(
    tree: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    load_fastest = repository.load_fastest

    def slow(*arguments: object) -> object:
        wait_until(lambda: "event=loading model=echo version=1 seconds=" in caplog.text, "it is said")
        return load_fastest(*arguments)

    monkeypatch.setattr(repository, "PROGRESS_S", 0.01)
    monkeypatch.setattr(repository, "load_fastest", slow)
    with caplog.at_level("INFO", "foldserve"):
        fact = repository.load_version(tree / "echo" / "1", "echo", "1", EngineConfig(threads=1))
    assert isinstance(fact, repository.Loaded)
