"""Augmentation: small changes, drawn from the given generator alone, applied to each row alone."""

import math

import pytest
import torch

from training.augment.affine import Affine, apply_affine, draw_affine


@pytest.fixture
def pixels() -> torch.Tensor:
    return torch.randint(
        0, 256, (6, 1, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
    )


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_no_change_allowed_means_no_change(pixels):
    theta = draw_affine(len(pixels), Affine(degrees=0, scale=0, shift=0), seeded(0))
    assert torch.equal(apply_affine(pixels, theta), pixels)


def test_a_shift_by_two_pixels_moves_the_picture_by_two_pixels(pixels):
    two_pixels = 2 * 2 / 28  # the picture spans −1 … 1
    theta = torch.tensor([[[1, 0, two_pixels], [0, 1, 0]]]).expand(len(pixels), 2, 3)
    moved = apply_affine(pixels, theta)
    assert torch.equal(moved[..., :-2], pixels[..., 2:])
    assert not moved[..., -2:].any()


def test_a_quarter_turn_turns_the_picture(pixels):
    theta = torch.tensor([[[0.0, -1, 0], [1, 0, 0]]]).expand(len(pixels), 2, 3)
    assert torch.equal(apply_affine(pixels, theta), torch.rot90(pixels, 1, dims=(2, 3)))


def test_every_draw_stays_within_its_limits_and_uses_them():
    limits = Affine(degrees=10, scale=0.2, shift=0.1)
    theta = draw_affine(10_000, limits, seeded(0))
    angles = torch.atan2(theta[:, 1, 0], theta[:, 0, 0]).rad2deg()
    scales = theta[:, :, :2].det().rsqrt()
    for drawn, centre, reach in ((angles, 0, 10), (scales, 1, 0.2), (theta[:, :, 2], 0, 0.1)):
        distance = (drawn - centre).abs().max().item() / reach
        assert 0.99 < distance < 1 + 1e-5


def test_chance_comes_from_the_generator_alone():
    torch.manual_seed(0)
    state = torch.get_rng_state()
    first = draw_affine(8, Affine(), seeded(3))
    assert torch.equal(draw_affine(8, Affine(), seeded(3)), first)
    assert not torch.equal(draw_affine(8, Affine(), seeded(4)), first)
    assert torch.equal(torch.get_rng_state(), state)


def test_each_row_is_changed_alone_and_the_input_stays_intact(pixels):
    before = pixels.clone()
    theta = draw_affine(len(pixels), Affine(), seeded(2))
    together = apply_affine(pixels, theta)
    alone = torch.cat(
        [apply_affine(pixels[row : row + 1], theta[row : row + 1]) for row in range(len(pixels))]
    )
    assert torch.equal(together, alone)
    assert not torch.equal(together, pixels)
    assert torch.equal(pixels, before)


@pytest.mark.parametrize("limits", [{"degrees": -1}, {"scale": 1}, {"shift": -0.1}, {"degrees": math.nan}])
def test_impossible_limits_are_refused(limits):
    with pytest.raises(ValueError, match="must be"):
        Affine(**limits)
