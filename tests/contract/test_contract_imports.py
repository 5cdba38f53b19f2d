"""The contract serves training, export and the service: it is light, and changes nothing on import."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CONTRACT = sorted(path.stem for path in (ROOT / "service" / "contract").glob("[a-z]*.py"))

# numpy and the standard library bring hundreds of modules; what counts is the packages that pip installed.
REPORT = """
import importlib, json, os, sys
from importlib.metadata import packages_distributions
environment = dict(os.environ)
for name in sys.argv[1:]:
    importlib.import_module(f"service.contract.{name}")
tops = {name.split(".")[0] for name in sys.modules}
assert dict(os.environ) == environment, "the environment was changed"
print(json.dumps(sorted(tops & set(packages_distributions()))))
"""


def packages_that_come_with(*modules: str) -> set[str]:
    """Installed packages that a fresh interpreter has loaded once it has imported these modules."""
    done = subprocess.run(
        [sys.executable, "-c", REPORT, *modules], capture_output=True, text=True, cwd=ROOT, check=True
    )
    return set(json.loads(done.stdout)) - {"service", "_distutils_hack", "setuptools"}


@pytest.mark.parametrize(
    ("module", "allowed"),
    [
        ("files", set()),
        ("text", set()),
        ("probabilities", {"numpy"}),
        ("pictures", {"numpy", "PIL", "simplejpeg"}),
    ],
)
def test_what_training_uses_of_the_contract_needs_no_more_than_training_has(module, allowed):
    assert packages_that_come_with(module) <= allowed


def test_the_whole_contract_needs_numpy_pillow_and_pydantic():
    packages = packages_that_come_with(*CONTRACT)
    assert {"numpy", "PIL", "pydantic"} <= packages
    assert not packages & {"onnxruntime", "fastapi", "uvicorn", "torch", "onnx"}


def test_importing_the_contract_leaves_pillows_limit_alone():
    script = (
        "import importlib, sys; from PIL import Image; limit = Image.MAX_IMAGE_PIXELS\n"
        "for name in sys.argv[1:]: importlib.import_module(f'service.contract.{name}')\n"
        "assert limit and Image.MAX_IMAGE_PIXELS == limit"
    )
    subprocess.run([sys.executable, "-c", script, *CONTRACT], cwd=ROOT, check=True)
