"""`foldserve evaluate`: measures by hand, test sets of every form, a temperature that folds."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from export_kit import run_here
from foldserve.commands.predict import main as predict
from training.__main__ import main
from training.data import DATA_SETS, Split, normalize
from training.evaluation.measures import calibration_error, find_temperature, measure
from training.runs.checkpoint import load_checkpoint, save_checkpoint
from training_kit import tiny_split

NAMES = [f"digit {number}" for number in range(10)]


def small_digits() -> Split:
    """As grey pictures of 16×16, in ten classes of two words."""
    tiny = tiny_split()
    return replace(tiny, facts=replace(tiny.facts, labels=NAMES))


def write_pictures(root: Path, split: Split) -> Path:
    """The held-out half as a folder of classes."""
    for row, (pixels, label) in enumerate(zip(split.held_out_pixels, split.held_out_labels, strict=True)):
        folder = root / NAMES[int(label)]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels[0].numpy()).save(folder / f"{row:03}.png")
    return root


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("evaluate") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(DATA_SETS, "tiny", small_digits)
        flags = ["--net", "cnn", "--net-setting", "channels=4,8", "--net-setting", "hidden=8"]
        fit = ["--data", "tiny", "--epochs", "4", "--batch-size", "20", "--augment", "none"]
        assert main(["--out", str(out), "--device", "cpu", *fit, *flags]) == 0
    return out


@pytest.fixture(scope="module")
def bundle(run) -> Path:
    done = run_here("bundle", run / "checkpoint.pt", "--to", run.parent / "model")
    assert done.returncode == 0, done.stderr
    return run.parent / "model" / "1"


@pytest.fixture(autouse=True)
def _places(monkeypatch, tmp_path):
    monkeypatch.setitem(DATA_SETS, "tiny", small_digits)
    monkeypatch.setenv("TRAINING_CACHE", str(tmp_path / "cache"))


def evaluated(capsys, *words: object) -> dict:
    capsys.readouterr()
    assert main(["evaluate", *map(str, words), "--device", "cpu", "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_measures_are_those_of_a_matrix_by_hand():
    said = torch.tensor([0, 0, 1, 1, 1, 0])
    labels = torch.tensor([0, 0, 0, 1, 1, 2])
    found = measure(functional.one_hot(said, 4).float() * 9, labels, ["a", "b", "c", "d"])
    assert found.confusion == [[2, 1, 0, 0], [0, 2, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
    two_thirds = pytest.approx(2 / 3)
    assert [each.precision for each in found.classes] == [two_thirds, two_thirds, None, None]
    assert [each.recall for each in found.classes] == [pytest.approx(2 / 3), 1.0, 0.0, None]
    assert found.macro_recall == pytest.approx((2 / 3 + 1 + 0) / 3), "of the classes that have pictures"
    assert found.macro_precision == pytest.approx((2 / 3 + 2 / 3 + 0) / 3)
    assert found.accuracy == pytest.approx(4 / 6)


def test_the_calibration_error_of_known_confidences():
    """80 % sure and right half of the time: 0.3; the right confidence: 0."""
    logits = torch.log(torch.tensor([[0.8, 0.2]])).repeat(100, 1)
    labels = torch.arange(100) % 2
    assert calibration_error(logits, labels) == pytest.approx(0.3)
    assert calibration_error(logits, (torch.arange(100) % 5 == 0).long()) == pytest.approx(0, abs=1e-6)


def test_a_temperature_undoes_the_factor_on_honest_logits():
    chance = torch.Generator().manual_seed(0)
    logits = torch.randn(20_000, 5, generator=chance) * 2
    labels = torch.multinomial(functional.softmax(logits, 1), 1, generator=chance).flatten()
    assert find_temperature(logits * 3, labels) == pytest.approx(3, rel=0.05)
    assert find_temperature(logits / 2, labels) == pytest.approx(0.5, rel=0.05)


def test_the_runs_own_held_out_half_has_the_runs_accuracy(run, capsys):
    report = evaluated(capsys, run)
    metrics = load_checkpoint(run / "checkpoint.pt").metrics
    assert report["rows"] == 100
    assert report["accuracy"] == pytest.approx(metrics["held_out_accuracy"])
    assert report["loss"] == pytest.approx(metrics["held_out_loss"], rel=1e-5)
    assert [each["name"] for each in report["classes"]] == NAMES
    assert np.sum(report["confusion"]) == 100


def test_a_folder_is_taken_whole_and_mistakes_name_their_files(run, bundle, tmp_path, capsys):
    folder = write_pictures(tmp_path / "test", small_digits())
    own = evaluated(capsys, run)
    report = evaluated(capsys, run, "--data", f"folder:{folder}", "--mistakes", 100)
    assert report["rows"] == 100, "all of it: nothing of it was trained on"
    assert report["accuracy"] == pytest.approx(own["accuracy"])
    assert len(report["mistakes"]) == round(100 * (1 - own["accuracy"]))
    for mistake in report["mistakes"]:
        assert (folder / mistake["file"]).is_file()
        assert Path(mistake["file"]).parent.name == mistake["true"] != mistake["predicted"]
    served = evaluated(capsys, bundle, "--data", f"folder:{folder}", "--mistakes", 100)
    assert served["confusion"] == report["confusion"]
    assert served["loss"] == pytest.approx(report["loss"], rel=1e-4)


def test_the_data_that_it_was_trained_on_are_never_taken_whole(run, bundle, tmp_path, capsys):
    """Their train half would flatter it: a bundle and a copy of the folder know them by their name."""
    for source in (run, bundle):
        assert evaluated(capsys, source, "--data", "tiny")["rows"] == 100
    checkpoint = load_checkpoint(run / "checkpoint.pt")
    folder = write_pictures(tmp_path / "digits", small_digits())
    renamed = replace(checkpoint, data=replace(checkpoint.data, name="folder:digits"), resume=None)
    save_checkpoint(tmp_path / "renamed.pt", renamed)
    report = evaluated(capsys, tmp_path / "renamed.pt", "--data", f"folder:{folder}")
    assert report["rows"] < 30


def test_some_of_the_classes_are_enough_but_another_class_is_not(run, tmp_path, capsys):
    folder = write_pictures(tmp_path / "test", small_digits())
    for name in NAMES[3:]:
        (folder / name).rename(tmp_path / name)
    report = evaluated(capsys, run, "--data", f"folder:{folder}")
    assert [each["rows"] > 0 for each in report["classes"]] == [True] * 3 + [False] * 7
    assert report["classes"][9]["recall"] is None
    (folder / NAMES[0]).rename(folder / "cat")
    assert main(["evaluate", str(run), "--data", f"folder:{folder}"]) == 2
    assert "has a class 'cat', the net knows digit 0, digit 1" in capsys.readouterr().err


def test_an_archive_without_halves_is_taken_whole(run, tmp_path, capsys):
    split = small_digits()
    names = np.array(NAMES)
    pixels, labels = split.held_out_pixels[:, 0].numpy(), split.held_out_labels.numpy()
    np.savez(tmp_path / "a.npz", x=pixels, y=labels, class_names=names)
    report = evaluated(capsys, run, "--data", f"npz:{tmp_path / 'a.npz'}")
    assert report["rows"] == 100
    np.savez(tmp_path / "b.npz", x=pixels[:, 1:], y=labels, class_names=names)
    assert main(["evaluate", str(run), "--data", f"npz:{tmp_path / 'b.npz'}"]) == 2
    assert "are (1, 15, 16), the net takes (1, 16, 16)" in capsys.readouterr().err


def test_a_temperature_is_folded_into_the_last_layer_and_changes_no_answer(run, tmp_path, capsys):
    report = evaluated(capsys, run, "--temperature", tmp_path / "calibrated.pt")
    found = report["calibration"]
    again = evaluated(capsys, tmp_path / "calibrated.pt", "--data", "tiny")
    assert again["confusion"] == report["confusion"]
    before, after = load_checkpoint(run / "checkpoint.pt"), load_checkpoint(tmp_path / "calibrated.pt")
    rows = torch.rand(4, 1, 16, 16)
    expected = before.build_net()(rows) / found["temperature"]
    assert torch.allclose(after.build_net()(rows), expected, atol=1e-5)
    done = run_here("bundle", tmp_path / "calibrated.pt", "--to", tmp_path / "model")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("kind", ["run", "bundle"])
def test_pictures_get_labels_without_a_server(request, run, tmp_path, capsys, kind):
    folder = write_pictures(tmp_path / "test", small_digits())
    files = sorted(map(str, folder.rglob("*.png")))[:20]
    (tmp_path / "no.png").write_bytes(b"not a picture")
    words = ["--from", str(request.getfixturevalue(kind)), "--top", "2", "--json"]
    capsys.readouterr()
    assert predict([*words, *files, str(tmp_path / "no.png"), "nowhere.png"], "foldserve predict") == 1
    shown = capsys.readouterr()
    answers = [json.loads(line) for line in shown.out.splitlines()]
    assert [answer["file"] for answer in answers] == files
    net = load_checkpoint(run / "checkpoint.pt")
    pixels = torch.stack([torch.from_numpy(np.asarray(Image.open(file)).copy())[None] for file in files])
    expected = functional.softmax(net.build_net()(normalize(pixels, net.data)), 1).max(1)
    assert [answer["label"] for answer in answers] == [NAMES[label] for label in expected.indices]
    assert [answer["probability"] for answer in answers] == pytest.approx(expected.values.tolist(), rel=1e-3)
    assert "no.png: the picture is none of JPEG" in shown.err
    assert "nowhere.png: No such file" in shown.err


def test_a_picture_without_a_net_is_one_sentence(capsys):
    assert predict(["--from", "nowhere", "x.png"], "foldserve predict") == 2
    assert "no checkpoint at nowhere" in capsys.readouterr().err
    assert predict(["--from", "nowhere", "--model", "digits", "x.png"], "foldserve predict") == 2


def test_a_terminal_gets_tables_with_whole_names(run, capsys):
    assert main(["evaluate", str(run)]) == 0
    shown = capsys.readouterr().out
    for text in ("macro recall", "| digit 7 ", "precision", "| true ", "called", "worst mistakes", "ece"):
        assert text in shown
    assert not shown.lstrip().startswith("{")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["nowhere"], "no checkpoint at nowhere"),
        (["{tmp}"], "holds neither manifest.json nor a version .*, nor checkpoint.pt"),
        (["{bundle}"], "does not say which data it is for: add --data"),
        (["{bundle}", "--data", "tiny", "--temperature", "x.pt"], "a bundle stays as it is"),
        (["{run}", "--data", "tinny"], "unknown data set 'tinny'.*did you mean tiny"),
        (["{run}", "--mistakes", "-1"], "mistakes must be zero or positive"),
        (["{run}", "--data", "folder:x", "--data-setting", "size=8"], "size and mode are the net's"),
    ],
)
def test_what_cannot_be_evaluated_is_one_sentence(run, bundle, tmp_path, capsys, words, sentence):
    given = [word.format(tmp=tmp_path, run=run, bundle=bundle) for word in words]
    assert main(["evaluate", *given]) == 2
    told = capsys.readouterr().err
    assert re.search(sentence, told)
    assert len(told.splitlines()) == 1
