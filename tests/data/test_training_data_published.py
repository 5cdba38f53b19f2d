"""Published sets: a copy is found by what is in it; without one, one sentence says where to get it."""

import gzip
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from data_kit import idx_files, levels, noise, pack_tar, publish_idx, sha256, shelf
from training.data import load_split
from training.data.sets import cifar, mnist
from training.data.sets.cifar import load_cifar
from training.data.sets.download import list_places
from training.data.sets.mnist import load_mnist
from training.data.sets.published import Published, read_contents
from training.errors import DataError

FILES = idx_files()
DEBIAN = Path("/usr/share/datasets/fashion-mnist")


@pytest.fixture(autouse=True)
def nothing_of_the_users(monkeypatch, tmp_path):
    """Tests look into folders of their own."""
    monkeypatch.setenv("TRAINING_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("TRAINING_DATA", raising=False)


def write(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def as_npz(folder: Path) -> Path:
    arrays = {name: np.frombuffer(content, np.uint8) for name, content in FILES.items()}
    folder.mkdir(parents=True)
    np.savez(
        folder / "tiny.npz",
        x_train=arrays["train-images-idx3-ubyte"][16:].reshape(-1, 28, 28),
        y_train=arrays["train-labels-idx1-ubyte"][8:],
        x_test=arrays["t10k-images-idx3-ubyte"][16:].reshape(-1, 28, 28),
        y_test=arrays["t10k-labels-idx1-ubyte"][8:],
    )
    return folder


GZIPPED = {f"{name}.gz": gzip.compress(content) for name, content in FILES.items()}
MIXED = dict(list(GZIPPED.items())[:2] + list(FILES.items())[2:])


@pytest.mark.parametrize(
    "put",
    [
        lambda place: write(place, FILES),
        lambda place: write(place, GZIPPED),
        lambda place: write(place / "tiny", MIXED),
        lambda place: write(place / "MNIST" / "raw", FILES),
        as_npz,
    ],
    ids=["plain", "gzip", "own folder, mixed", "torchvision", "keras"],
)
def test_a_copy_is_found_however_it_lies(tmp_path, put):
    published, _ = publish_idx(FILES)
    put(tmp_path / "place")
    assert read_contents(published, [tmp_path / "nothing here", tmp_path / "place"]) == FILES


def test_a_copy_of_another_set_with_the_same_names_is_passed_over(tmp_path):
    published, _ = publish_idx(FILES)
    other = {**FILES, "t10k-images-idx3-ubyte": b"\0" + FILES["t10k-images-idx3-ubyte"][1:-1] + b"\0"}
    torn = {**GZIPPED, "t10k-labels-idx1-ubyte.gz": GZIPPED["t10k-labels-idx1-ubyte.gz"][:-3]}
    places = [write(tmp_path / "other", other), write(tmp_path / "torn", torn)]
    with pytest.raises(DataError) as caught:
        read_contents(published, places)
    assert f"{places[0]} has another t10k-images-idx3-ubyte than the published one" in str(caught.value)
    assert f"{places[1]} is damaged" in str(caught.value)
    good = write(tmp_path / "good", FILES)
    assert read_contents(published, [*places, good]) == FILES


def test_without_a_copy_and_offline_one_sentence_says_where_and_how(tmp_path):
    published, _ = publish_idx(FILES, mirrors=("http://127.0.0.1:1/",))
    (tmp_path / "tiny-py").mkdir()
    with pytest.raises(DataError) as caught:
        read_contents(published, [tmp_path])
    sentence = str(caught.value)
    assert sentence.startswith(f"tiny-mnist lies in none of {tmp_path} (")
    assert f"{tmp_path}/tiny-py holds pickles, which are not opened" in sentence
    assert "cannot be downloaded (http://127.0.0.1:1/train-images-idx3-ubyte.gz: " in sentence
    assert sentence.endswith(
        "apt install tiny, or set TRAINING_DATA to a folder with train-images-idx3-ubyte.gz, "
        "train-labels-idx1-ubyte.gz, t10k-images-idx3-ubyte.gz, t10k-labels-idx1-ubyte.gz"
    )
    assert "\n" not in sentence


def test_what_is_downloaded_is_found_the_next_time(tmp_path, monkeypatch):
    monkeypatch.setenv("TRAINING_DATA", str(tmp_path / "data"))
    with shelf(publish_idx(FILES)[1]) as server:
        published, _ = publish_idx(FILES, mirrors=(server.url,))
        assert read_contents(published, [tmp_path / "data"]) == FILES
        assert len(server.asked) == 4
    assert (tmp_path / "data" / "tiny-mnist" / "t10k-labels-idx1-ubyte.gz").is_file()
    published = replace(published, folders=("tiny-mnist",))
    assert read_contents(published, [tmp_path / "data"]) == FILES


def test_a_download_that_was_ruined_since_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv("TRAINING_DATA", str(tmp_path))
    published, served = publish_idx(FILES)
    write(tmp_path / "tiny-mnist", {**served, "t10k-labels-idx1-ubyte.gz": b"ruined"})
    with pytest.raises(DataError, match=f"{tmp_path}/tiny-mnist is damaged .*: remove it, and it will be"):
        read_contents(published, [tmp_path])


def test_the_users_own_folder_is_searched_first(tmp_path):
    places = list_places({"TRAINING_DATA": str(tmp_path), "TRAINING_CACHE": "elsewhere"})
    assert places[0] == tmp_path
    assert list_places({"XDG_CACHE_HOME": "/x"})[0] == Path("/x/foldserve/data")
    assert Path("/usr/share/datasets") in places


def test_every_set_is_searched_where_its_download_goes():
    for published in (mnist.MNIST, mnist.FASHION_MNIST, cifar.CIFAR10, cifar.CIFAR100):
        assert published.name in published.folders
        digests = [*published.contents.values(), *published.downloads.values()]
        assert all(len(digest) == 64 and int(digest, 16) >= 0 for digest in digests)


def test_the_halves_of_an_idx_set_are_those_of_its_files(tmp_path, monkeypatch):
    published, _ = publish_idx(FILES)
    monkeypatch.setenv("TRAINING_DATA", str(write(tmp_path / "data", FILES)))
    split = load_mnist(published, [str(digit) for digit in range(10)])
    assert levels(split.train_pixels) == [picture.tobytes() for picture in noise(20, 28, 28, seed=1)]
    assert levels(split.held_out_pixels) == [picture.tobytes() for picture in noise(10, 28, 28, seed=2)]
    assert split.train_labels.tolist() == [row % 10 for row in range(20)]
    assert split.held_out_labels.tolist() == list(range(10))
    assert split.train_pixels.shape == (20, 1, 28, 28)
    assert split.facts.name == "tiny-mnist"


@pytest.mark.parametrize("num_labels", [1, 2])
@pytest.mark.parametrize("unpacked", [True, False])
def test_the_halves_of_a_cifar_set_are_those_of_its_records(tmp_path, monkeypatch, num_labels, unpacked):
    train, test = noise(8, 3, 32, 32, seed=3), noise(4, 3, 32, 32, seed=4)

    def records(pictures: np.ndarray) -> bytes:
        labels = np.arange(len(pictures)) % 4
        columns = [np.full(len(pictures), 9)] * (num_labels - 1) + [labels]
        return np.column_stack([*columns, pictures.reshape(len(pictures), -1)]).astype(np.uint8).tobytes()

    files = {"b.bin": records(train[:5]), "a.bin": records(train[5:]), "test.bin": records(test)}
    packed = pack_tar({"readme.html": b"not asked for", **files}, "cifar-tiny")
    published = Published(
        name="cifar-tiny",
        contents={name: sha256(content) for name, content in files.items()},
        downloads={"tiny.tar.gz": sha256(packed)},
        mirrors=(),
        folders=(),
    )
    write(tmp_path / "data", files if unpacked else {"tiny.tar.gz": packed})
    monkeypatch.setenv("TRAINING_DATA", str(tmp_path / "data"))
    split = load_cifar(published, ["ape", "bee", "cow", "dog"], num_labels=num_labels)
    assert levels(split.train_pixels) == [picture.tobytes() for picture in train]
    assert levels(split.held_out_pixels) == [picture.tobytes() for picture in test]
    assert split.train_labels.tolist() == [0, 1, 2, 3, 0, 0, 1, 2]
    assert split.facts.mode == "RGB"


def test_cifar_names_its_classes_in_the_order_of_their_labels():
    assert cifar.LABELS_10[:3] == ["airplane", "automobile", "bird"]
    assert len(cifar.LABELS_100) == len(set(cifar.LABELS_100)) == 100
    assert sorted(cifar.LABELS_100) == cifar.LABELS_100


@pytest.mark.skipif(not DEBIAN.is_dir(), reason="needs Fashion-MNIST: apt install dataset-fashion-mnist")
def test_fashion_mnist_is_all_there():
    split = load_split("fashion-mnist")
    assert split.train_pixels.shape == (60000, 1, 28, 28)
    assert split.held_out_pixels.shape == (10000, 1, 28, 28)
    assert torch.bincount(split.train_labels).tolist() == [6000] * 10
    assert torch.bincount(split.held_out_labels).tolist() == [1000] * 10
    # The usual mean and deviation: 0.2860 and 0.3530.
    assert (split.facts.mean, split.facts.std) == ([0.286], [0.353])
    assert split.facts.labels[0] == "T-shirt/top"
    assert split.facts.labels[9] == "Ankle boot"
    assert split.train_labels[:3].tolist() == [9, 0, 0]
