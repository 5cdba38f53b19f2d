"""Plans: chance drawn once for an epoch, any rows of it taken anywhere, and each step's own algebra."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data_kit import noise
from training.augment import choose_augmentation, parse_augment
from training.augment.affine import Affine, draw_affine
from training.augment.move import Crop, Cutout, Flip, Shift, move
from training.data import DATA_SETS, DataFacts
from training.data import FAMILIES as DATA_FAMILIES
from training.settings.config import ConfigError

EVERY = "affine,shift,crop,flip,cutout"
sizes = st.tuples(st.integers(1, 6), st.sampled_from([1, 3]), st.integers(8, 13), st.integers(8, 13))


def facts_of(shape: tuple[int, ...]) -> DataFacts:
    channels = shape[1]
    return DataFacts(
        name="any",
        labels=["a", "b"],
        input_shape=shape[1:],
        mode="L" if channels == 1 else "RGB",
        mean=[0.2, 0.4, 0.6][:channels],
        std=[0.5] * channels,
    )


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(noise(*shape, seed=seed))


@settings(max_examples=40)
@given(shape=sizes, seed=st.integers(0, 99), data=st.data())
def test_a_slice_of_the_plan_is_the_plan_of_the_slice(shape, seed, data):
    """Several processes draw the same plan, and each applies it to its own rows."""
    plan = choose_augmentation(EVERY, "any", facts_of(shape)).draw(shape[0], seeded(seed))
    pixels = pictures(shape, seed)
    before = pixels.clone()
    rows = torch.tensor(data.draw(st.lists(st.integers(0, shape[0] - 1), min_size=1, max_size=8)))
    whole = plan.apply(pixels)
    assert torch.equal(plan[rows].apply(pixels[rows]), whole[rows])
    assert whole.shape == pixels.shape
    assert whole.dtype == torch.uint8
    assert torch.equal(pixels, before)


@settings(max_examples=40)
@given(shape=sizes, seed=st.integers(0, 99), name=st.sampled_from(EVERY.split(",")))
def test_floating_pictures_keep_their_type_and_change_alike(shape, seed, name):
    plan = choose_augmentation(name, "any", facts_of(shape)).draw(shape[0], seeded(seed))
    pixels = pictures(shape, seed)
    for dtype in (torch.float32, torch.float64):
        changed = plan.apply(pixels.to(dtype))
        assert changed.dtype == dtype
        assert torch.equal(changed.round().to(torch.uint8), plan.apply(pixels)) or name == "affine"
        # Only the affine one computes new levels; a level may then round to either side of a half.
        assert (changed - plan.apply(pixels).to(dtype)).abs().max() <= 0.5 + 1e-4


def test_the_digits_draw_what_they_always_drew():
    """A run from before there were plans resumes to the same weights."""
    generator, plain = seeded(7), seeded(7)
    plan = choose_augmentation("auto", "digits", facts_of((1, 1, 28, 28))).draw(50, generator)
    (drawn,) = plan.drawn
    assert torch.equal(drawn, draw_affine(50, Affine(), plain))
    assert torch.equal(generator.get_state(), plain.get_state())


def test_no_augmentation_draws_nothing_and_changes_nothing():
    generator, pixels = seeded(3), pictures((4, 3, 8, 8))
    before = generator.get_state()
    plan = choose_augmentation("none", "cifar10", facts_of((4, 3, 8, 8))).draw(4, generator)
    assert torch.equal(generator.get_state(), before)
    assert plan[torch.tensor([2])].apply(pixels) is pixels


@pytest.mark.parametrize(
    ("step", "drawn"),
    [
        (Shift(reach=3), torch.zeros(5, 2, dtype=torch.int64)),
        (Crop(reach=3), torch.zeros(5, 2, dtype=torch.int64)),
        (Flip(), torch.zeros(5, dtype=torch.bool)),
        (Affine(), draw_affine(5, Affine(degrees=0, scale=0, shift=0), seeded(0))),
    ],
    ids=["shift", "crop", "flip", "affine"],
)
def test_the_draw_of_no_change_changes_nothing(step, drawn):
    pixels = pictures((5, 3, 9, 11))
    assert torch.equal(step.apply(pixels, drawn), pixels)


@settings(max_examples=30)
@given(shape=sizes, seed=st.integers(0, 99))
def test_a_flip_undoes_itself_and_flips_half_by_chance(shape, seed):
    pixels, drawn = pictures(shape, seed), Flip().draw(shape[0], seeded(seed))
    once = Flip().apply(pixels, drawn)
    assert torch.equal(Flip().apply(once, drawn), pixels)
    for row, is_flipped in enumerate(drawn.tolist()):
        assert torch.equal(once[row], pixels[row].flip(2) if is_flipped else pixels[row])


@settings(max_examples=60)
@given(shape=sizes, seed=st.integers(0, 99), reach=st.integers(1, 7), mirrored=st.booleans())
def test_moves_are_cut_from_a_padded_picture(shape, seed, reach, mirrored):
    """Against torch's own padding: reflected or black, then cut at (reach + dy, reach + dx)."""
    pixels = pictures(shape, seed)
    offsets = (Crop if mirrored else Shift)(reach=reach).draw(shape[0], seeded(seed))
    assert offsets.abs().max() <= reach
    height, width = shape[2:]
    mode = "reflect" if mirrored else "constant"
    padded = torch.nn.functional.pad(pixels.float(), [reach] * 4, mode=mode)
    for row, (dy, dx) in enumerate(offsets.tolist()):
        cut = padded[row, :, reach + dy : reach + dy + height, reach + dx : reach + dx + width]
        assert torch.equal(move(pixels, offsets, mirrored=mirrored)[row].float(), cut)


@settings(max_examples=40)
@given(shape=sizes, seed=st.integers(0, 99), side=st.integers(1, 8))
def test_a_cutout_paints_one_whole_square_and_nothing_else(shape, seed, side):
    _, channels, height, width = shape
    step = Cutout(side=side, height=height, width=width, paint=(7, 8, 9)[:channels])
    pixels = torch.full(shape, 200, dtype=torch.uint8)
    corners = step.draw(shape[0], seeded(seed))
    painted = step.apply(pixels, corners)
    for row, (y, x) in enumerate(corners.tolist()):
        inside = painted[row, :, y : y + side, x : x + side]
        assert inside.shape == (channels, side, side)
        assert all((inside[channel] == 7 + channel).all() for channel in range(channels))
    assert (painted != pixels).sum() == shape[0] * channels * side**2


@pytest.mark.parametrize("step", [Shift(reach=2), Crop(reach=2)])
def test_every_offset_is_drawn_about_as_often(step):
    drawn = step.draw(50_000, seeded(0))
    counts = torch.bincount((drawn[:, 0] + 2) * 5 + drawn[:, 1] + 2, minlength=25)
    # 25 cells of 2,000; six standard deviations of a binomial count are 6·√(2000·0.96) = 263.
    assert (counts - 2000).abs().max() < 263


def test_a_cutouts_corner_may_lie_anywhere_inside():
    drawn = Cutout(side=4, height=6, width=9, paint=(0,)).draw(2000, seeded(0))
    assert set(drawn[:, 0].tolist()) == set(range(3))
    assert set(drawn[:, 1].tolist()) == set(range(6))


def test_flips_are_even():
    # Six standard deviations of 50,000 coin tosses: 6·√(50000/4) = 671.
    assert abs(int(Flip().draw(50_000, seeded(0)).sum()) - 25_000) < 671


@pytest.mark.parametrize("name", [*DATA_SETS, *DATA_FAMILIES])
def test_every_data_set_has_its_own_default(name):
    shape = (4, 3, 32, 32)
    augmentation = choose_augmentation(
        "auto", f"{name}:x" if name in DATA_FAMILIES else name, facts_of(shape)
    )
    assert augmentation.draw(4, seeded(0)).apply(pictures(shape)).shape == shape


def test_amounts_are_shares_of_the_picture_unless_given():
    facts = facts_of((1, 3, 32, 40))
    shift, crop, cutout = choose_augmentation("shift,crop,cutout", "any", facts).steps
    assert (shift, crop) == (Shift(reach=4), Crop(reach=4))
    assert cutout == Cutout(side=8, height=32, width=40, paint=(51, 102, 153))
    assert choose_augmentation("crop=2", "any", facts).steps == (Crop(reach=2),)
    assert choose_augmentation("crop", "any", facts_of((1, 1, 4, 4))).steps == (Crop(reach=1),)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("crops", "unknown augmentation 'crops', known: affine, auto, .*crop, .*; did you mean crop"),
        ("", "unknown augmentation ''"),
        ("crop,,flip", "unknown augmentation ''"),
        ("none,flip", "auto and none stand alone, got 'none,flip'"),
        ("flip,auto", "auto and none stand alone"),
        ("crop,crop=2", "crop is given twice"),
        ("flip=2", "flip takes no value, got 'flip=2'"),
        ("crop=", "crop takes a whole number of pixels, got 'crop='"),
        ("crop=0", "crop takes a whole number"),
        ("crop=-1", "crop takes a whole number"),
        ("crop=²", "crop takes a whole number"),
    ],
)
def test_what_nobody_knows_is_told(text, sentence):
    with pytest.raises(ConfigError, match=sentence):
        parse_augment(text, "digits")


def test_a_move_larger_than_the_picture_is_told():
    with pytest.raises(ConfigError, match="augmentation cutout=28 needs pictures larger than 28, got 28"):
        choose_augmentation("cutout=28", "any", facts_of((1, 1, 28, 30)))
