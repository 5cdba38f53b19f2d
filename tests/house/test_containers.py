"""The images and the compose file, really built and really run: train → export → service → answers.

In: the engine behind DOCKER_HOST or the default socket, and `docker compose` or docker-compose; without
them, a skip that says so.  Out: nothing stays but the engine's build cache.

    BUILD_NETWORK     network of the builds, for engines that have none of their own (e.g. host)
    PIP_FIND_LINKS    a page of wheels to look in too, e.g. one with torch's CPU build

Not built here, because its wheels are gigabytes: `service-gpu`, of which only the description is checked.
"""

import io
import json
import os
import re
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from container_kit import (
    ROOT,
    Project,
    docker,
    find_compose,
    free_port,
    inspect,
    read_log,
    run,
    why_no_engine,
)
from tiny_nets import digits_net, write_bundle

SERVICES = ("train", "export", "service")
EPOCHS = 2
MAX_SERVICE_BYTES = 400_000_000
STEP = 50  # every 50th held-out digit is asked about


@pytest.fixture(scope="module")
def say(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Print past pytest's capture: minutes without a word look like a hang."""
    capture = request.config.pluginmanager.getplugin("capturemanager")
    began = time.monotonic()

    def print_now(text: str) -> None:
        with capture.global_and_fixture_disabled():
            print(f"\n  {time.monotonic() - began:5.1f} s  {text}", end="", flush=True)

    return print_now


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, say: Callable[[str], None]) -> Iterator[Project]:
    """Built, trained, exported, served."""
    if reason := why_no_engine():
        pytest.skip(reason)
    if (command := find_compose()) is None:
        pytest.skip("there is an engine, but neither `docker compose` nor docker-compose")
    network = os.environ.get("BUILD_NETWORK")
    changes: dict[str, Any] = {name: {"build": {"network": network}} if network else {} for name in SERVICES}
    changes["train"]["command"] = ["--epochs", str(EPOCHS)]
    override = tmp_path_factory.mktemp("compose") / "override.json"
    override.write_text(json.dumps({"services": changes}))
    name, address = f"foldserve-test-{uuid.uuid4().hex[:8]}", f"127.0.0.1:{free_port()}"
    files = ["--file", str(ROOT / "docker-compose.yml"), "--file", str(override)]
    project = Project(
        name=name,
        command=[*command, "--project-name", name, *files],
        env={**os.environ, "DOCKER_BUILDKIT": "1", "PUBLISH": address, "COMPOSE_PROFILES": ""},
        url=f"http://{address}",
    )
    try:
        for service in SERVICES:
            say(f"building {service}")
            project.compose("build", service, limit_s=1200)
        say(f"up: {EPOCHS} epochs, export, service")
        project.compose("up", "--detach", "--no-build")
        project.wait_until_healthy()
        say("healthy")
        yield project
    finally:
        say("removing containers, volumes and images")
        project.compose("down", "--volumes", "--rmi", "local", "--timeout", "5")


@pytest.fixture(scope="module")
def own(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """compose.serve.yml: the built image with a bundle of one's own, settings in a .env file, half a core."""
    folder = tmp_path_factory.mktemp("own")
    write_bundle(folder / "models" / "mine" / "1", digits_net())
    address = f"127.0.0.1:{free_port()}"
    settings = {"MODELS": folder / "models", "PUBLISH": address, "FOLDSERVE_LOG_FORMAT": "json"}
    (folder / ".env").write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
    docker("tag", project.image("service"), f"{project.name}-own")
    service = {"image": f"{project.name}-own", "cpus": 0.5}
    (folder / "override.json").write_text(json.dumps({"services": {"service": service}}))
    files = ("--file", str(ROOT / "compose.serve.yml"), "--file", str(folder / "override.json"))
    compose = project.command[: project.command.index("--project-name")]
    own = Project(
        name=f"{project.name}-own",
        command=[
            *compose,
            "--env-file",
            str(folder / ".env"),
            "--project-name",
            f"{project.name}-own",
            *files,
        ],
        env={**os.environ, "COMPOSE_PROFILES": ""},
        url=f"http://{address}",
    )
    try:
        own.compose("up", "--detach", "--no-build")
        own.wait_until_healthy()
        yield own
    finally:
        own.compose("down", "--volumes", "--timeout", "5")
        docker("rmi", f"{project.name}-own")


pytestmark = [pytest.mark.containers, pytest.mark.timeout(3600)]  # images are built from nothing


def test_digits_get_their_labels_over_http(project: Project) -> None:
    from PIL import Image

    from training.data import load_split, normalize

    ready = httpx.get(f"{project.url}/v2/health/ready")
    assert (ready.status_code, ready.json()) == (200, {"ready": True})

    split = load_split("digits")
    pixels, labels = split.held_out_pixels[::STEP], split.held_out_labels[::STEP].tolist()
    (tensor,) = httpx.get(f"{project.url}/v2/models/digits").json()["inputs"]
    rows = {
        "name": tensor["name"],
        "datatype": tensor["datatype"],
        "shape": list(pixels.shape),
        "data": normalize(pixels, split.facts).flatten().tolist(),
    }
    answer = httpx.post(f"{project.url}/v2/models/digits/infer", json={"inputs": [rows]})
    assert answer.status_code == 200, answer.text
    (logits,) = answer.json()["outputs"]
    assert logits["shape"] == [len(labels), 10]
    by_row = [logits["data"][start : start + 10] for start in range(0, len(logits["data"]), 10)]
    inferred = [row.index(max(row)) for row in by_row]

    predicted = []
    for picture in pixels:
        png = io.BytesIO()
        Image.fromarray(picture[0].numpy()).save(png, "PNG")
        answer = httpx.post(f"{project.url}/predict", content=png.getvalue())
        assert answer.status_code == 200, answer.text
        predicted.append(int(answer.json()["predictions"][0]["label"]))
    assert predicted == inferred
    num_right = sum(found == label for found, label in zip(predicted, labels, strict=True))
    assert num_right >= 0.8 * len(labels), f"{num_right} of {len(labels)} right after {EPOCHS} epochs"


def test_the_service_is_confined(project: Project) -> None:
    facts = inspect(project.container("service"))
    host = facts["HostConfig"]
    assert facts["State"]["Health"]["FailingStreak"] == 0
    assert host["ReadonlyRootfs"] is True
    assert host["CapDrop"] == ["ALL"]
    assert [option.partition(":")[0] for option in host["SecurityOpt"]] == ["no-new-privileges"]
    mounts = {mount["Destination"]: mount["RW"] for mount in facts["Mounts"]}
    assert mounts == {"/app/models": False, "/app/cache": True}
    assert project.ask("id", "-u").stdout.strip() == "10001"
    for place in (".", "models", "/opt/venv"):
        refused = project.ask("touch", f"{place}/planted")
        assert refused.returncode != 0, f"{place} can be written"
        assert "Read-only file system" in refused.stderr
    assert project.ask("touch", "/tmp/allowed").returncode == 0


@pytest.mark.parametrize(("service", "tools"), [("train", ["pip"]), ("service", ["pip", "setuptools"])])
def test_an_image_is_tidy(project: Project, service: str, tools: list[str]) -> None:
    """torch itself depends on setuptools."""
    facts = inspect(project.image(service))
    config = facts["Config"]
    assert config["User"] == "10001:10001"
    assert config["Entrypoint"][0] == "python"
    assert config["Labels"]["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert [entry for entry in config["Env"] if entry.startswith("PIP_")] == []
    left = f"find /opt/venv /root /tmp -path '*/.cache/*' -o -name {' -o -name '.join(tools)}"
    image = facts["Id"]
    assert docker("run", "--rm", "--network=none", "--user=0", "--entrypoint=sh", image, "-c", left) == ""


def test_the_service_image_is_small_and_holds_only_the_service(
    project: Project, say: Callable[[str], None]
) -> None:
    image = project.image("service")
    size, factory_size = inspect(image)["Size"], inspect(project.image("train"))["Size"]
    say(f"service image {size / 1e6:.0f} MB, factory image {factory_size / 1e6:.0f} MB ")
    assert size < MAX_SERVICE_BYTES
    assert sorted(docker("exec", project.container("service"), "ls", "-A", "/app").split()) == [
        "cache",
        "foldserve",
        "models",
        "runs",
        "service",
    ]
    assert project.ask("foldserve", "--version").stdout.startswith("foldserve ")
    for module in ("torch", "training", "export", "mlxtend"):
        done = project.ask("python", "-c", f"import {module}")
        assert done.returncode == 1, f"{module} can be imported"
        assert f"No module named '{module}'" in done.stderr


@pytest.mark.parametrize(("service", "package"), [("service", "onnxruntime"), ("train", "torch")])
def test_an_image_lists_the_packages_that_it_holds(project: Project, service: str, package: str) -> None:
    image = inspect(project.image(service))["Id"]
    command = ("--network=none", "--entrypoint=cat", image, "/opt/venv/sbom.json")
    listed = json.loads(docker("run", "--rm", *command))
    assert listed["bomFormat"] == "CycloneDX"
    names = {component["name"] for component in listed["components"]}
    assert {"numpy", package} <= names
    assert "cyclonedx-bom" not in names


def test_without_a_model_the_health_check_fails(project: Project) -> None:
    """The negative control of "healthy": the process is up and answers, but is not ready."""
    image = project.image("service")
    check = inspect(image)["Config"]["Healthcheck"]["Test"]
    assert check[0] == "CMD"
    empty = docker("run", "--detach", "--read-only", "--tmpfs=/tmp", "--network=none", image)
    try:
        deadline = time.monotonic() + 30
        while "Not ready" not in read_log(empty):
            assert time.monotonic() < deadline, read_log(empty)
            time.sleep(0.2)
        done = run("docker", "exec", empty, *check[1:])
        assert (done.returncode, done.stderr) == (1, "")
        assert project.ask(*check[1:]).returncode == 0
    finally:
        docker("rm", "--force", "--volumes", empty)


def test_it_stops_on_sigterm_and_comes_back_without_training_again(project: Project) -> None:
    service = project.container("service")
    docker("stop", "--time=30", service)
    state = inspect(service)["State"]
    assert (state["Status"], state["ExitCode"], state["OOMKilled"]) == ("exited", 0, False)

    project.compose("up", "--detach", "--no-build")
    project.wait_until_healthy()
    assert "every epoch is done already" in read_log(project.container("train"))
    assert "nothing to export" in read_log(project.container("export"))
    assert project.ask("ls", "models/digits").stdout.split() == ["1"]
    assert httpx.get(f"{project.url}/v2/health/ready").status_code == 200


def test_a_bundle_of_ones_own_is_served_with_settings_of_ones_own(own: Project) -> None:
    content = (ROOT / "docs/seven.png").read_bytes()
    answer = httpx.post(f"{own.url}/predict", content=content)
    assert (answer.status_code, answer.json()["model_name"]) == (200, "mine")
    log = read_log(own.container("service"))
    events = [json.loads(line) for line in log.splitlines()]  # JSON, as .env asks
    (listening,) = [event for event in events if event["event"] == "listening"]
    assert listening["threads"] == "1", "half a core"


def test_measured_plans_outlive_the_container(own: Project) -> None:
    first = own.container("service")
    assert "planned" in read_log(first)
    own.compose("up", "--detach", "--no-build", "--force-recreate")
    own.wait_until_healthy()
    assert own.container("service") != first
    log = read_log(own.container("service"))
    assert "planned" not in log
    assert "proved" in log


def test_the_gpu_service_is_described(project: Project) -> None:
    described = project.compose("--profile", "gpu", "config")
    assert re.findall(r"target: (\S+)", described).count("service-gpu") == 1
    assert re.search(r"driver: nvidia", described)
    started = docker("ps", "--all", "--format={{.Names}}", f"--filter=name={project.name}")
    assert "gpu" not in started, "only the profile starts it"


def test_every_stage_that_is_named_exists() -> None:
    """Also for the stages that no test builds."""
    dockerfile = (ROOT / "Dockerfile").read_text()
    stages = re.findall(r"^FROM \S+ AS (\S+)$", dockerfile, re.MULTILINE)
    bases = re.findall(r"^FROM (\S+) AS", dockerfile, re.MULTILINE)
    copied = re.findall(r"^COPY --from=(\S+)", dockerfile, re.MULTILINE)
    targets = re.findall(r"target: ([\w-]+)", (ROOT / "docker-compose.yml").read_text())
    assert {name for name in (*bases, *copied, *targets) if name not in stages} == {"python:3.11-slim"}
