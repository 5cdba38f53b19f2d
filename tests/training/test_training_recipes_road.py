"""Each recipe of docs/recipes.md as it is written: trained, folded, proved, served, and asked by command."""

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from export_kit import run_here
from foldserve.commands.predict import main as predict
from service.contract.bundle import open_bundle
from service_kit import Server, serving
from training.__main__ import main
from training.data import DATA_SETS
from training.runs.checkpoint import load_checkpoint
from training_kit import tiny_split, without_pictures

ROOT = Path(__file__).parents[2]
SEVEN = ROOT / "docs" / "seven.png"
# The table's rows: `| what the article trains | `flags` | 93.0 % |`.
ROW = re.compile(r"^\| ([^|`]+) \| `(--net [^`]+)` \| [\d.]+ % \|$", re.MULTILINE)
RECIPES = [shlex.split(flags) for _, flags in ROW.findall((ROOT / "docs/recipes.md").read_text("utf-8"))]
# The recipe for large pictures, from its own block; here on smaller ones.
(LARGE,) = re.findall(
    r"^python -m training --out \S+ (--data table:(?:.*\\\n)*.*)$",
    (ROOT / "docs/recipes.md").read_text("utf-8"),
    re.MULTILINE,
)
NUMBERS = range(len(RECIPES) + 1)
SHORT = ["--epochs", "2", "--batch-size", "20", "--device", "cpu"]


def write_table(folder: Path, per_class: int) -> Path:
    """A table of pictures of two colours, 24×24 with an alpha channel, as emoji are."""
    folder.mkdir()
    chance = np.random.default_rng(0)
    lines = ["path,label"]
    for channel, label in enumerate(("Animals & Nature", "Flags")):
        for number in range(per_class):
            pixels = chance.integers(0, 60, (24, 24, 4), dtype=np.uint8)
            pixels[..., channel] += 180
            pixels[..., 3] = 255
            Image.fromarray(pixels).save(folder / f"{channel}-{number}.png")
            lines.append(f"{channel}-{number}.png,{label}")
    (folder / "emoji.csv").write_text("\n".join(lines) + "\n")
    return folder / "emoji.csv"


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    """Every recipe on a few digits for one epoch, and its bundle."""
    models = tmp_path_factory.mktemp("recipes") / "models"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(DATA_SETS, "tiny", tiny_split)
        without_pictures(patch)
        table = write_table(models.parent / "emoji", per_class=20)
        commands = [[*flags, "--data", "tiny", "--log-every", "5"] for flags in RECIPES]
        commands.append(
            shlex.split(
                LARGE.replace("emoji.csv", str(table)).replace("size=224", "size=32").replace("\\\n", "")
            )
        )
        for number, flags in enumerate(commands):
            out = models.parent / f"run{number}"
            assert main(["--out", str(out), *flags, *SHORT]) == 0
            done = run_here("bundle", out / "checkpoint.pt", "--to", models / f"recipe{number}")
            assert done.returncode == 0, done.stderr
    return models


@pytest.fixture(scope="module")
def server(models) -> Iterator[Server]:
    with serving(models, "--threads", "1", "--buckets", "1,8") as started:
        yield started


def test_the_document_has_the_articles_recipes():
    assert [flags[1] for flags in RECIPES] == ["mlp", "keras-cnn", "cnn", "resnet"]
    for setting in ("size=224", "--net cnn", "--learning-rate 0.01", "--no-nesterov", "--batch-size 32"):
        assert setting in LARGE
    assert "--epochs 10" in LARGE
    assert "--log-every 10" in LARGE


@pytest.mark.parametrize("number", NUMBERS)
def test_every_batchnorm_folds_and_the_proof_holds(models, number):
    fold = open_bundle(models / f"recipe{number}" / "1").manifest.fold
    left = [site.reason for site in fold.sites if site.status != "folded"]
    assert fold.found > 0
    # Keras' tutorial has a BatchNorm first, and padded Convs, whose border allows no shift.
    assert len(left) == 0 or (number < len(RECIPES) and RECIPES[number][1] == "keras-cnn"), left
    done = run_here("verify", models / f"recipe{number}" / "1")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("number", NUMBERS)
def test_the_service_and_the_command_give_one_picture_the_nets_own_label(server, models, capsys, number):
    answer = httpx.post(
        f"{server.url}/predict", params={"model": f"recipe{number}"}, content=SEVEN.read_bytes(), timeout=60
    )
    assert answer.status_code == 200, answer.text
    (served,) = answer.json()["predictions"]
    run = models.parent / f"run{number}"
    capsys.readouterr()
    assert predict(["--from", str(run), "--json", str(SEVEN)], "foldserve predict") == 0
    here = json.loads(capsys.readouterr().out)
    assert here["label"] == served["label"]
    assert here["probability"] == pytest.approx(served["probability"], abs=1e-4)
    assert load_checkpoint(run / "checkpoint.pt").epoch == 2
