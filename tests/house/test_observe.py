"""Prometheus rules, board and runbook: alerts fire, queries return data, each alert has its text."""

import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
import yaml

from service.settings import PREFIX, Settings
from service_kit import ROOT, free_port, serving
from tiny_nets import digits_net, write_bundle

DEPLOY = ROOT / "deploy"
RULES = yaml.safe_load((DEPLOY / "prometheus/rules.yml").read_text())
BOARD = json.loads((DEPLOY / "grafana/foldserve.json").read_text())
ALERTS = [rule["alert"] for group in RULES["groups"] for rule in group["rules"] if "alert" in rule]
without_prometheus = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="no prometheus here: apt-get install prometheus"
)


def test_the_board_is_what_its_code_makes() -> None:
    made = subprocess.run(
        [sys.executable, str(DEPLOY / "grafana/board.py")], capture_output=True, text=True, check=True
    )
    assert json.loads(made.stdout) == BOARD


def test_every_alert_has_its_paragraph_and_no_other() -> None:
    text = (ROOT / "docs/operations.md").read_text()
    assert re.findall(r"^### (Foldserve\w+)$", text, re.MULTILINE) == ALERTS
    tested = (DEPLOY / "prometheus/rules.test.yml").read_text()
    assert all(f"alertname: {alert}\n" in tested for alert in ALERTS)


@without_prometheus
def test_each_alert_fires_for_its_reason() -> None:
    command = ["promtool", "test", "rules", "rules.test.yml"]
    done = subprocess.run(command, cwd=DEPLOY / "prometheus", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@without_prometheus
def test_each_panels_query_returns_data_after_100_requests(tmp_path: Path) -> None:
    write_bundle(tmp_path / "models" / "digits" / "1", digits_net())
    port = free_port()
    with serving(tmp_path / "models") as server, httpx.Client(base_url=server.url) as client:
        config = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())
        config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
        config["rule_files"] = [str(DEPLOY / "prometheus/rules.yml")]
        config["scrape_configs"][0]["static_configs"] = [{"targets": [server.url.partition("//")[2]]}]
        (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(config))
        flags = {
            "config.file": tmp_path / "prometheus.yml",
            "storage.tsdb.path": tmp_path / "data",
            "web.listen-address": f"127.0.0.1:{port}",
        }
        prometheus = subprocess.Popen(
            ["prometheus", *(f"--{name}={value}" for name, value in flags.items())], stderr=subprocess.DEVNULL
        )
        try:
            seven = (ROOT / "docs/seven.png").read_bytes()
            queries = {target["expr"] for panel in BOARD["panels"] for target in panel["targets"]}
            deadline = time.monotonic() + 60
            while queries and time.monotonic() < deadline:
                for _ in range(100):  # more of them each second: a rate needs two scrapes that differ
                    assert client.post("/predict", content=seven).status_code == 200
                client.post("/predict", content=b"no picture")
                time.sleep(0.5)
                queries = {query for query in queries if not _result(port, query)}
            assert queries == set(), "these return nothing"
        finally:
            prometheus.terminate()
            prometheus.wait()


def _result(port: int, query: str) -> list[object]:
    try:
        answer = httpx.get(f"http://127.0.0.1:{port}/api/v1/query", params={"query": query}, timeout=10)
    except httpx.TransportError:  # it still starts
        return []
    found: list[object] = answer.json().get("data", {}).get("result", [])
    return found


def test_every_setting_reaches_the_container_of_compose_serve() -> None:
    service = yaml.safe_load((ROOT / "compose.serve.yml").read_text())["services"]["service"]
    fixed = {"host", "port", "models", "cache"}  # what the image and the volumes say
    assert set(service["environment"]) == {
        f"{PREFIX}{name.upper()}" for name in set(Settings.model_fields) - fixed
    }
    assert all(value is None for value in service["environment"].values())
    named = re.findall(rf"^({PREFIX}\w+)=", (ROOT / ".env.example").read_text(), re.MULTILINE)
    assert named
    assert set(named) <= set(service["environment"])
