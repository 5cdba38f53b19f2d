"""Models from a store: mirrored whole, proved, swapped; whatever is wrong there, the old version serves."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import obstore
import pytest
from obstore.store import S3Store
from onnx import helper

import extras
from cluster_kit import load
from service.contract.bundle import open_bundle
from service.models.store import Store, StoreError
from service_kit import Server, free_port, one_sentence, start, wait_until
from tiny_nets import echo_net, write_bundle

PROD = "s3://bucket/prod"
KEYS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "us-east-1"}


@pytest.fixture
def shelf(tmp_path: Path) -> Path:
    """A store that is a folder, with one model of three versions."""
    for version in ("1", "2", "10"):
        write_bundle(tmp_path / "shelf" / "echo" / version, echo_net("float32"))
    return tmp_path / "shelf"


def store_at(shelf: Path, folder: Path) -> Store:
    return Store(f"file://{shelf}", folder)


def test_the_newest_versions_come_whole_and_old_ones_go(shelf: Path, tmp_path: Path) -> None:
    (shelf / "echo" / "notes").mkdir()
    (shelf / "echo" / "notes" / "manifest.json").write_text("no version")
    store = store_at(shelf, tmp_path / "here")
    assert store.pull() == ["echo"]
    versions = sorted(path.name for path in (tmp_path / "here" / "echo").iterdir())
    assert versions == ["10", "2"], "two, so that one which does not prove leaves the one before it"
    for version in versions:
        for file in (shelf / "echo" / version).iterdir():
            assert (tmp_path / "here" / "echo" / version / file.name).read_bytes() == file.read_bytes()
    assert store.pull() == [], "nothing new"
    shutil.rmtree(shelf / "echo" / "10")
    assert store.pull() == ["echo"], "a version that was taken back"
    assert sorted(path.name for path in (tmp_path / "here" / "echo").iterdir()) == ["1", "2"]
    other = store_at(shelf, tmp_path / "here")
    assert other.pull() == ["echo"], "another worker of the same folder learns of it too"


@pytest.mark.parametrize("what", ["half a file", "a file missing", "another graph", "a short download"])
def test_a_version_that_is_not_whole_never_comes(
    shelf: Path, tmp_path: Path, what: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = shelf / "echo" / "10" / "model.onnx"
    store = store_at(shelf, tmp_path / "here")
    if what == "half a file":
        graph.write_bytes(graph.read_bytes()[:-20])
    elif what == "a file missing":
        graph.unlink()
    elif what == "another graph":  # a second writer of the same version
        graph.write_bytes(wrong_graph())
    else:
        whole = obstore.get

        class Short:
            def __init__(self, content: bytes) -> None:
                self.content = content

            def stream(self, min_chunk_size: int) -> Iterator[bytes]:
                yield self.content

        def get(store: object, path: str) -> Short:
            content = bytes(whole(store, path).bytes())
            return Short(content[:-1] if path.endswith("10/model.onnx") else content)

        monkeypatch.setattr(obstore, "get", get)
    for _ in range(3):
        store.pull()
        assert sorted(path.name for path in (tmp_path / "here" / "echo").iterdir()) == ["2"]
    told = [line for line in caplog.messages if "event=not_pulled" in line]
    assert len(told) == 1, "once, and not at each poll"
    assert "version=10" in told[0]


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("ftp://host/models", "a store is one of s3, gs, az, file, http, https, got 'ftp://'"),
        ("s3://", "s3:// cannot be opened"),
    ],
)
def test_a_wrong_url_is_one_sentence(url: str, message: str) -> None:
    one_sentence(start("--models", url, "--port", "0"), message)


def test_a_store_that_cannot_be_read_is_one_sentence(tmp_path: Path) -> None:
    store = Store("s3://bucket/models", tmp_path)
    store._store = S3Store(
        "bucket", endpoint="http://127.0.0.1:9", allow_http=True, retry_config={"max_retries": 0}
    )
    with pytest.raises(StoreError, match=r"the store s3://bucket/models cannot be read: .+") as raised:
        store.pull()
    assert "\n" not in str(raised.value)


class Bucket:
    """A real S3 server with one bucket, and what uploads to it."""

    def __init__(self, root: Path) -> None:
        assert extras.RCLONE is not None
        (root / "bucket").mkdir(parents=True)
        self.endpoint = f"http://127.0.0.1:{free_port()}"
        address = self.endpoint.removeprefix("http://")
        flags = ("--auth-key", "key,secret", "--addr", address, "--config", os.devnull)
        self.process = subprocess.Popen(
            [str(extras.RCLONE), "serve", "s3", *flags, str(root)], stderr=subprocess.DEVNULL
        )
        self.environment = {**KEYS, "AWS_ENDPOINT_URL": self.endpoint, "AWS_ALLOW_HTTP": "true"}
        wait_until(lambda: is_open(address), "the S3 server listens")
        self.store = S3Store(
            "bucket",
            endpoint=self.endpoint,
            access_key_id="key",
            secret_access_key="secret",  # pragma: allowlist secret
            region="us-east-1",
            allow_http=True,
        )

    def upload(self, bundle: Path, *, without: str = "") -> None:
        for file in sorted(bundle.iterdir()):
            if file.name != without:
                obstore.put(self.store, f"prod/echo/{bundle.name}/{file.name}", file.read_bytes())

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


@pytest.fixture
def bucket(tmp_path: Path) -> Iterator[Bucket]:
    if extras.RCLONE is None:
        pytest.skip(f"rclone: {extras.NEEDED}")
    opened = Bucket(tmp_path / "s3")
    yield opened
    opened.close()


def wrong_graph() -> bytes:
    """A graph that is no copy of its input."""
    return replace(echo_net("float32"), nodes=[helper.make_node("Neg", ["x"], ["y"])]).graph()


def bundle_of(tmp_path: Path, version: str, graph: bytes | None = None) -> Path:
    return write_bundle(tmp_path / "made" / version, echo_net("float32"), graph=graph)


def test_new_versions_in_s3_are_proved_and_swapped_under_load(bucket: Bucket, tmp_path: Path) -> None:
    bucket.upload(bundle_of(tmp_path, "1"))
    flags = ("--store-poll-s", "1", "--threads", "1", "--cache", str(tmp_path / "cache"))
    server = Server(PROD, *flags, environment=bucket.environment)
    try:
        server.wait_until_loaded()
        with httpx.Client(base_url=server.url) as client, load([("127.0.0.1", server.port)]) as answers:

            def version() -> str:
                (model,) = client.get("/models").json()["models"]
                return str(model["served"]["version"])

            assert version() == "1"
            second = bundle_of(tmp_path, "2")
            bucket.upload(second, without="model.onnx")
            server.wait_for("event=not_pulled model=echo version=2")
            assert version() == "1"
            bucket.upload(second)
            wait_until(lambda: version() == "2", "the version is whole and serves")
            bucket.upload(bundle_of(tmp_path, "3", wrong_graph()))
            server.wait_for("event=refused model=echo version=3")
            bucket.close()
            server.wait_for("event=store_failed")
            assert version() == "2"
            assert client.get("/v2/health/ready").status_code == 200
        assert answers.failures == []
        assert answers.right > 100
        # The store is away: a restart serves what was pulled, the version before the one that does not prove.
        server.terminate()
        assert server.wait() == 0
        again = Server(PROD, *flags, environment=bucket.environment)
        try:
            again.wait_for("event=proved model=echo version=2")
        finally:
            again.close()
    finally:
        server.close()


@pytest.fixture
def webdav(shelf: Path) -> Iterator[str]:
    """The address of a real WebDAV server of the shelf, which asks for a password."""
    if extras.RCLONE is None:
        pytest.skip(f"rclone: {extras.NEEDED}")
    address = f"127.0.0.1:{free_port()}"
    flags = ("--user", "me", "--pass", "p@ss", "--addr", address, "--config", os.devnull)
    process = subprocess.Popen(
        [str(extras.RCLONE), "serve", "webdav", *flags, str(shelf.parent)], stderr=subprocess.DEVNULL
    )
    wait_until(lambda: is_open(address), "the WebDAV server listens")
    yield address
    process.kill()
    process.wait()


def is_open(address: str) -> bool:
    try:
        httpx.get(f"http://{address}")
    except httpx.TransportError:
        return False
    return True


def test_a_webdav_server_is_a_store(webdav: str, tmp_path: Path) -> None:
    store = Store(f"http://me:p%40ss@{webdav}/shelf/", tmp_path / "here")
    assert store.pull() == ["echo"]
    assert sorted(path.name for path in (tmp_path / "here" / "echo").iterdir()) == ["10", "2"]
    assert store.url == f"http://{webdav}/shelf"
    with pytest.raises(StoreError, match="401 Unauthorized") as raised:
        Store(f"http://{'me:wrong'}@{webdav}/shelf", tmp_path / "there").pull()
    assert "wrong" not in str(raised.value), "it would be in logs and answers"


INITIALIZE = "import sys; from kserve_storage import Storage; Storage.download(sys.argv[1], sys.argv[2])"


def test_kserves_storage_initializer_brings_the_same_files(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if extras.STORAGE_INITIALIZER is None:
        pytest.skip(f"kserve-storage: {extras.NEEDED}")
    for version in ("1", "2"):
        bucket.upload(bundle_of(tmp_path, version))
    theirs, ours = tmp_path / "mnt", tmp_path / "here"
    command = [str(extras.STORAGE_INITIALIZER), "-c", INITIALIZE, f"{PROD}/echo", str(theirs)]
    keys = {**bucket.environment, "AWS_DEFAULT_REGION": KEYS["AWS_REGION"]}
    done = subprocess.run(command, env={**os.environ, **keys}, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    for name, value in keys.items():
        monkeypatch.setenv(name, value)
    assert Store(PROD, ours).pull() == ["echo"]
    for version in ("1", "2"):
        files = sorted(path.name for path in (ours / "echo" / version).iterdir())
        assert files == sorted(path.name for path in (theirs / version).iterdir())
        for name in files:
            assert (theirs / version / name).read_bytes() == (ours / "echo" / version / name).read_bytes()
        assert open_bundle(theirs / version).digest == open_bundle(ours / "echo" / version).digest


def test_a_bucket_without_access_is_one_sentence(bucket: Bucket, tmp_path: Path) -> None:
    flags = ("--store-poll-s", "1", "--cache", str(tmp_path / "cache"))
    keys = {**bucket.environment, "AWS_SECRET_ACCESS_KEY": "wrong"}  # pragma: allowlist secret
    server = Server(PROD, *flags, environment=keys)
    try:
        server.wait_for("event=store_failed")
        answer = httpx.get(f"{server.url}/v2/health/ready")
        assert answer.status_code == 503
        assert "the store s3://bucket/prod cannot be read" in answer.json()["error"]
        assert httpx.get(f"{server.url}/v2/health/live").status_code == 200
    finally:
        server.close()
