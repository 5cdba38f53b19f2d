"""A container's CPU quota, as cgroups of version 2 and 1 state it."""

import math
from pathlib import Path

import pytest

from service import cgroup
from service.cgroup import cpu_quota
from service.processes.worker import url_to_try


def group(root: Path, files: dict[str, str], membership: str) -> float:
    for name, text in files.items():
        path = root / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (root / "self").write_text(membership)
    return cpu_quota(root / "cgroup", root / "self")


@pytest.mark.parametrize(
    ("files", "membership", "cores"),
    [
        ({"cpu.max": "50000 100000\n"}, "0::/\n", 0.5),
        ({"cpu.max": "max 100000\n"}, "0::/\n", math.inf),
        ({"cpu.max": "150000 100000", "a/b/cpu.max": "max 100000"}, "0::/a/b\n", 1.5),
        ({"a/cpu.max": "200000 100000", "a/b/cpu.max": "300000 100000"}, "0::/a/b\n", 2.0),
        ({"cpu/cpu.cfs_quota_us": "50000", "cpu/cpu.cfs_period_us": "100000"}, "4:cpu:/\n1:memory:/x\n", 0.5),
        (
            {"cpu,cpuacct/d/cpu.cfs_quota_us": "-1", "cpu,cpuacct/d/cpu.cfs_period_us": "1"},
            "4:cpu,cpuacct:/d\n",
            math.inf,
        ),
        (
            {"cpu,cpuacct/cpu.cfs_quota_us": "250000", "cpu,cpuacct/cpu.cfs_period_us": "100000"},
            "4:cpu,cpuacct:/docker/1\n",
            2.5,
        ),
        ({"cpu.max": "torn"}, "0::/\n", math.inf),
        ({}, "", math.inf),
    ],
)
def test_the_quota(tmp_path: Path, files: dict[str, str], membership: str, cores: float) -> None:
    assert group(tmp_path, files, membership) == cores


@pytest.mark.parametrize(("quota", "cores"), [(0.5, 1), (1.9, 1), (math.inf, 8), (20.0, 8)])
def test_a_quota_of_a_half_plans_one_thread(
    monkeypatch: pytest.MonkeyPatch, quota: float, cores: int
) -> None:
    monkeypatch.setattr(cgroup.os, "sched_getaffinity", lambda pid: set(range(8)))
    monkeypatch.setattr(cgroup, "cpu_quota", lambda: quota)
    assert cgroup.usable_cores() == cores


@pytest.mark.parametrize(
    ("url", "tried"),
    [
        ("http://0.0.0.0:8000", "http://127.0.0.1:8000"),
        ("https://[::]:1", "https://[::1]:1"),
        ("http://10.0.0.5:8000", "http://10.0.0.5:8000"),
    ],
)
def test_the_hint_names_an_address_that_a_browser_goes_to(url: str, tried: str) -> None:
    assert url_to_try(url) == tried
