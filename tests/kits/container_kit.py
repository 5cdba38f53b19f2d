"""A compose project of its own, and what is asked of the engine that runs it.

In: the engine behind DOCKER_HOST or the default socket, and `docker compose` or docker-compose.
Out: what the engine says; a failed command is an AssertionError with its output.
"""

import json
import shutil
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def run(
    *command: str, env: dict[str, str] | None = None, limit_s: float = 60
) -> subprocess.CompletedProcess[str]:
    """Run to the end, whatever the exit code."""
    return subprocess.run(
        command, capture_output=True, text=True, check=False, env=env, timeout=limit_s, cwd=ROOT
    )


def docker(*arguments: str) -> str:
    """What `docker` prints; it must succeed."""
    done = run("docker", *arguments)
    assert done.returncode == 0, f"docker {' '.join(arguments)}: {done.stderr}"
    return done.stdout.strip()


def inspect(name: str) -> dict[str, Any]:
    """What the engine knows of a container or an image."""
    return json.loads(docker("inspect", name))[0]


def read_log(container: str) -> str:
    done = run("docker", "logs", container)
    return done.stdout + done.stderr


def why_no_engine() -> str | None:
    """Why nothing can be built here, in one sentence, or None."""
    if shutil.which("docker") is None:
        return "there is no docker command on PATH"
    try:
        done = run("docker", "version", "--format", "{{.Server.Version}}", limit_s=20)
    except subprocess.TimeoutExpired:
        return "the Docker engine did not answer within 20 s"
    last_line = done.stderr.strip().rpartition("\n")[2]
    return None if done.returncode == 0 else f"no Docker engine answers: {last_line}"


def find_compose() -> list[str] | None:
    for command in (["docker", "compose"], ["docker-compose"]):
        if shutil.which(command[0]) and run(*command, "version").returncode == 0:
            return command
    return None


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@dataclass(frozen=True, kw_only=True)
class Project:
    """One compose project with a name of its own, so that it touches no other containers."""

    name: str
    command: list[str]
    env: dict[str, str]
    url: str

    def compose(self, *arguments: str, limit_s: float = 300) -> str:
        done = run(*self.command, *arguments, env=self.env, limit_s=limit_s)
        said = f"{done.stdout[-6000:]}\n{done.stderr[-6000:]}"
        assert done.returncode == 0, f"compose {' '.join(arguments)}: {said}\n{self.logs()}"
        return done.stdout

    def logs(self) -> str:
        return run(*self.command, "logs", "--no-color", env=self.env).stdout[-4000:]

    def container(self, service: str) -> str:
        """The id of a service's container, running or not."""
        labels = {"project": self.name, "service": service}
        filters = [f"--filter=label=com.docker.compose.{key}={value}" for key, value in labels.items()]
        (found,) = docker("ps", "--all", "--quiet", *filters).split()
        return found

    def image(self, service: str) -> str:
        return str(inspect(self.container(service))["Image"])

    def ask(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command inside the service's container."""
        return run("docker", "exec", self.container("service"), *command)

    def wait_until_healthy(self, limit_s: float = 60) -> None:
        deadline = time.monotonic() + limit_s
        while (status := inspect(self.container("service"))["State"]["Health"]["Status"]) != "healthy":
            assert time.monotonic() < deadline, f"after {limit_s} s: {status}\n{self.logs()}"
            time.sleep(0.3)
