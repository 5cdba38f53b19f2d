"""CIFAR-10 and CIFAR-100: 50,000 colour pictures to train on and 10,000 held out, 32×32, the binary version.

In: the content of the binary files.  Out: a `Split` with the halves as published.

    record    CIFAR-10: label, 3072 levels        CIFAR-100: coarse label, fine label, 3072 levels
              channel by channel, row by row
"""

import numpy as np
import torch
from torch import Tensor

from training.data.divide import split_as_given
from training.data.sets.published import Published, read_contents
from training.data.split import Split

SHAPE = (3, 32, 32)
NUM_LEVELS = 3 * 32 * 32

CIFAR10 = Published(
    name="cifar10",
    contents={
        "data_batch_1.bin": "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5",
        "data_batch_2.bin": "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed",
        "data_batch_3.bin": "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67",
        "data_batch_4.bin": "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48",
        "data_batch_5.bin": "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add",
        "test_batch.bin": "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b",
    },
    downloads={"cifar-10-binary.tar.gz": "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"},
    mirrors=("https://www.cs.toronto.edu/~kriz/",),
    folders=("cifar10", "cifar-10-batches-bin"),
    pickles=("cifar-10-batches-py", "cifar-10-python.tar.gz", "cifar-10-batches-py.tar.gz"),
)

CIFAR100 = Published(
    name="cifar100",
    contents={
        "train.bin": "f31298fc616915fa142368359df1c4ca2ae984d6915ca468b998a5ec6aeebf29",
        "test.bin": "d8b1e6b7b3bee4020055f0699b111f60b1af1e262aeb93a0b659061746f8224a",
    },
    downloads={"cifar-100-binary.tar.gz": "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec"},
    mirrors=("https://www.cs.toronto.edu/~kriz/",),
    folders=("cifar100", "cifar-100-binary"),
    pickles=("cifar-100-python", "cifar-100-python.tar.gz"),
)

NAMES_10 = "airplane automobile bird cat deer dog frog horse ship truck"
NAMES_100 = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can
castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin
elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster
man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck
pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk
skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger
tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm
"""
LABELS_10, LABELS_100 = NAMES_10.split(), NAMES_100.split()


def load_cifar(published: Published, label_names: list[str], *, num_labels: int) -> Split:
    """The published halves of CIFAR-10 or CIFAR-100, whose records begin with `num_labels` labels."""
    contents = read_contents(published)
    train, held_out = (
        [contents[name] for name in published.contents if name.startswith("test") == is_test]
        for is_test in (False, True)
    )
    return split_as_given(
        published.name,
        parse_records(b"".join(train), num_labels),
        parse_records(b"".join(held_out), num_labels),
        label_names=label_names,
    )


def parse_records(content: bytes, num_labels: int) -> tuple[Tensor, Tensor]:
    """Pictures and the last label of each record."""
    records = np.frombuffer(content, np.uint8).reshape(-1, num_labels + NUM_LEVELS)
    pixels = torch.from_numpy(records[:, num_labels:].reshape(-1, *SHAPE).copy())
    return pixels, torch.from_numpy(records[:, num_labels - 1].astype(np.int64))
