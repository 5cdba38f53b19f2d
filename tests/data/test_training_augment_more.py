"""Colours, RandAugment, resized crops and mixing, against Pillow and against their own definitions."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps

from data_kit import noise
from training.augment import choose_augmentation, levels, parse_augment
from training.augment.affine import ResizedCrop
from training.augment.mix import CutMix, Mixup, draw_beta, mix_labels
from training.augment.rand import CHANGES, RandAugment
from training.data import DataFacts
from training.settings.config import ConfigError

FACTS = DataFacts(
    name="any", labels=["a", "b"], input_shape=(3, 9, 13), mode="RGB", mean=[0.2, 0.4, 0.6], std=[0.5] * 3
)
ALONE = "resized-crop,rotate,colour,randaugment"


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(num_rows: int = 12, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(noise(num_rows, 3, 9, 13, seed=seed))


def to_pillow(pixels: torch.Tensor) -> Image.Image:
    return Image.fromarray(pixels.permute(1, 2, 0).numpy())


def from_pillow(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (levels.brightness, ImageEnhance.Brightness),
        (levels.saturation, ImageEnhance.Color),
        (levels.contrast, ImageEnhance.Contrast),
    ],
)
@pytest.mark.parametrize("factor", [0.3, 1.0, 1.7])
def test_levels_change_as_pillow_changes_them(ours, theirs, factor):
    (changed,) = ours(pictures(1), torch.tensor([factor]))
    expected = from_pillow(theirs(to_pillow(pictures(1)[0])).enhance(factor))
    # Pillow rounds its grey to a whole level first, which a factor of up to 0.7 beyond 1 can move by one.
    assert (changed.int() - expected.int()).abs().max() <= 1


def test_sharpness_is_that_of_pillow_inside_the_border():
    (changed,) = levels.sharpness(pictures(1), torch.tensor([0.2]))
    expected = from_pillow(ImageEnhance.Sharpness(to_pillow(pictures(1)[0])).enhance(0.2))
    assert (changed.int() - expected.int())[:, 1:-1, 1:-1].abs().max() <= 1


@pytest.mark.parametrize(
    ("number", "theirs"),
    [
        (1, ImageOps.autocontrast),
        (4, lambda image: ImageOps.solarize(image, 128)),
        (5, lambda image: ImageOps.posterize(image, 6)),
    ],
    ids=["autocontrast", "solarise", "posterise"],
)
def test_randaugments_changes_are_those_of_pillow(number, theirs):
    pixels = (pictures(1) // 2 + 40).to(torch.uint8)
    (changed,) = CHANGES[number](pixels, torch.ones(1), 0.5)
    assert (changed.int() - from_pillow(theirs(to_pillow(pixels[0]))).int()).abs().max() <= 1


def test_equalised_levels_are_spread_evenly():
    pixels = torch.arange(64, dtype=torch.uint8).view(1, 1, 8, 8)
    equal = CHANGES[2](pixels, torch.ones(1), 1.0)
    assert torch.equal(equal.flatten(), torch.linspace(0, 255, 64).round().to(torch.uint8))
    plain = torch.full((1, 3, 4, 4), 77, dtype=torch.uint8)
    for change in (CHANGES[1], CHANGES[2]):
        assert torch.equal(change(plain, torch.ones(1), 1.0), plain)


@pytest.mark.parametrize("number", range(len(CHANGES)))
@pytest.mark.parametrize("shape", [(4, 1, 8, 8), (4, 3, 7, 10)])
def test_every_change_keeps_shape_and_type(number, shape):
    pixels = torch.from_numpy(noise(*shape, seed=number))
    before = pixels.clone()
    changed = CHANGES[number](pixels, torch.tensor([1.0, -1, 1, -1]), 0.9)
    assert (changed.shape, changed.dtype) == (pixels.shape, torch.uint8)
    assert torch.equal(pixels, before)


@pytest.mark.parametrize("name", ALONE.split(","))
def test_a_slice_of_the_plan_is_the_plan_of_the_slice(name):
    plan = choose_augmentation(name, "any", FACTS).draw(12, seeded(4))
    pixels, rows = pictures(), torch.tensor([7, 0, 7, 3])
    whole = plan.apply(pixels)
    assert torch.equal(plan[rows].apply(pixels[rows]), whole[rows])
    assert not torch.equal(whole, pixels)
    assert torch.equal(pixels, pictures())


def test_a_turn_of_a_wide_picture_keeps_right_angles():
    """A square drawn in a wide picture stays one: its area does."""
    pixels = torch.zeros(1, 1, 40, 80, dtype=torch.uint8)
    pixels[..., 10:30, 30:50] = 255
    turned = CHANGES[3](pixels, torch.ones(1), 1.0)
    assert abs(turned.float().sum() / pixels.float().sum() - 1) < 0.01


def test_a_resized_crop_lies_inside_and_has_its_area():
    theta = ResizedCrop(minimum=0.3).draw(5000, seeded(0))
    width, height = theta[:, 0, 0], theta[:, 1, 1]
    for size, shift in ((width, theta[:, 0, 2]), (height, theta[:, 1, 2])):
        assert ((shift.abs() + size) <= 1 + 1e-6).all()
    area = width * height
    assert 0.25 < area.min() < 0.35
    assert area.max() <= 1
    assert torch.equal(
        ResizedCrop(minimum=1.0).apply(pictures(), torch.eye(2, 3).expand(12, 2, 3)), pictures()
    )


def test_shares_are_drawn_from_the_generator_alone():
    assert torch.equal(draw_beta(0.2, 9, seeded(3)), draw_beta(0.2, 9, seeded(3)))
    shares = draw_beta(0.2, 20_000, seeded(0))
    # Beta(α, α) has variance 1 / (4 (2α + 1)).
    assert abs(shares.mean() - 0.5) < 0.02
    assert abs(shares.var() - 1 / 5.6) < 0.01


def test_mixup_mixes_pictures_and_labels_in_the_same_shares():
    pixels, labels = pictures(3), torch.tensor([0, 1, 1])
    drawn = torch.tensor([[1.0], [0.25], [0.5]])
    mixed = Mixup(alpha=1.0).apply(pixels, drawn)
    assert torch.equal(mixed[0], pixels[0])
    expected = (0.25 * pixels[1] + 0.75 * pixels[0]).round()
    assert torch.equal(mixed[1].float(), expected)
    assert mix_labels(labels, drawn, 2).tolist() == [[1, 0], [0.75, 0.25], [0, 1]]


def test_a_cutmix_box_comes_from_the_picture_before_and_its_share_is_its_area():
    step = CutMix(alpha=1.0, height=9, width=13)
    drawn = step.draw(400, seeded(1))
    pixels = torch.zeros(400, 1, 9, 13, dtype=torch.uint8)
    pixels[::2] = 255
    mixed = step.apply(pixels, drawn)
    foreign = (mixed != pixels).float().mean((1, 2, 3))
    assert torch.allclose(1 - foreign, drawn[:, 0], atol=1e-6)
    assert 0.4 < drawn[:, 0].mean() < 0.6


def test_mixing_belongs_to_a_plan_and_leaves_labels_alone_where_there_is_none():
    labels = torch.tensor([0, 1] * 6)
    plan = choose_augmentation("flip,cutmix=0.5", "any", FACTS).draw(12, seeded(2))
    pixels, targets = plan[torch.arange(12)].mix(pictures(), labels, 2)
    assert targets.shape == (12, 2)
    assert torch.allclose(targets.sum(1), torch.ones(12))
    assert pixels.dtype == torch.uint8
    same, unmixed = choose_augmentation("flip", "any", FACTS).draw(12, seeded(2)).mix(pixels, labels, 2)
    assert same is pixels
    assert unmixed is labels


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("mixup,cutmix", "mixup and cutmix both mix the labels"),
        ("rotate=200", "rotate takes degrees, above 0 and at most 180, got 'rotate=200'"),
        ("colour=0", "colour takes a strength above 0"),
        ("randaugment=11", "randaugment takes a magnitude above 0 and at most 10"),
        ("resized-crop=1.5", "resized-crop takes a share of the area"),
        ("mixup=inf", "mixup takes a positive α"),
        ("cutmix=nan", "cutmix takes a positive α"),
        ("mixup=", "mixup takes a positive α, got 'mixup='"),
        ("randaug", "did you mean randaugment"),
    ],
)
def test_a_wrong_amount_is_one_sentence(text, sentence):
    with pytest.raises(ConfigError, match=sentence):
        parse_augment(text, "any")


def test_defaults_are_those_of_the_papers():
    (step,) = choose_augmentation("randaugment", "any", FACTS).steps
    assert step == RandAugment(magnitude=9)
    assert choose_augmentation("mixup", "any", FACTS).mixing == Mixup(alpha=0.2)
