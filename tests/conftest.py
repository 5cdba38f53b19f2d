"""What every test may ask for: nets with lively BatchNorms, and the reason why there is no GPU."""

import os
import shutil
import subprocess

import pytest

from training.__main__ import ENVIRONMENT

for name, value in ENVIRONMENT.items():  # before torch, as the command does
    os.environ.setdefault(name, value)


def _gpu_missing() -> str | None:
    if shutil.which("nvidia-smi") is None:
        return "no nvidia-smi on this machine"
    answer = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    return None if answer.returncode == 0 and "GPU" in answer.stdout else "nvidia-smi finds no GPU"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    reason = _gpu_missing()
    if reason is None:
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason=f"needs an NVIDIA GPU: {reason}"))
