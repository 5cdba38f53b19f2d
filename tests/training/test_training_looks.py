"""The pictures: confusions counted right, the worst mistakes first, and all of it readable."""

import io
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.colors import to_hex
from matplotlib.image import imread

from training.figures.confusion import (
    count_confusions,
    draw_confusion,
    find_recall,
    list_confusions,
)
from training.figures.curves import draw_comparison, draw_curves
from training.figures.figure import HELD_OUT_COLOR, INK, drawable_names, to_png
from training.figures.mistakes import draw_mistakes, find_mistakes
from training.loop.facts import EpochFacts

LONG = ["abyssinian long-haired cat", "pickup truck", "streetcar", "lawn-mower", "chimpanzee"]
POINTS_LEGIBLE = 6  # what a newspaper's smallest print is


@st.composite
def answers(draw):
    """Logits of up to 40 rows in 2 to 6 classes, coarse enough for ties, and labels."""
    num_rows, num_classes = draw(st.integers(1, 40)), draw(st.integers(2, 6))
    chance = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    logits = torch.randint(-3, 4, (num_rows, num_classes), generator=chance).float()
    return logits, torch.randint(num_classes, (num_rows,), generator=chance)


@given(answers())
def test_confusions_are_counted_row_by_row(given_):
    logits, labels = given_
    counts = count_confusions(logits, labels)
    expected = np.zeros((logits.shape[1],) * 2, dtype=int)
    for row, true in zip(logits.numpy(), labels.tolist(), strict=True):
        expected[true, int(row.argmax())] += 1
    np.testing.assert_array_equal(counts, expected)
    for index, share in enumerate(find_recall(counts)):
        of_class = logits.argmax(1)[labels == index] == index
        assert np.isnan(share) if not len(of_class) else share == of_class.double().mean()


@given(answers())
def test_the_most_frequent_confusions_stand_first_and_none_is_left_out(given_):
    counts = count_confusions(*given_)
    pairs = list_confusions(counts, limit=1000)
    often = [count for _, _, count in pairs]
    assert often == sorted(often, reverse=True)
    assert all(true != predicted and counts[true, predicted] == count for true, predicted, count in pairs)
    assert sum(often) == counts.sum() - counts.trace()
    assert list_confusions(counts, limit=2) == pairs[:2]


@given(answers())
def test_mistakes_are_the_rows_of_the_highest_loss(given_):
    logits, labels = given_
    p = torch.softmax(logits.double(), 1)
    losses = -torch.log(p[torch.arange(len(labels)), labels])
    found = find_mistakes(logits, labels, limit=7)
    rows = [mistake.row for mistake in found]
    assert len(set(rows)) == len(rows) == min(7, len(labels))
    others = [losses[row].item() for row in range(len(labels)) if row not in rows]
    shown = [mistake.loss for mistake in found]
    assert shown == sorted(shown, reverse=True)
    # Losses are computed here in another way: equal ones may differ by their rounding.
    assert max(others, default=0) <= shown[-1] + 1e-14
    assert [row for _, row in sorted((-mistake.loss, mistake.row) for mistake in found)] == rows
    for mistake in found:
        assert mistake.true == labels[mistake.row]
        assert mistake.predicted == logits[mistake.row].argmax()
        assert mistake.is_wrong == (mistake.true != mistake.predicted)
        # Two ways to the same number in float64: a few rounding errors of numbers up to 1.
        assert mistake.loss == pytest.approx(losses[mistake.row].item(), abs=1e-14)
        assert mistake.p_true == pytest.approx(p[mistake.row, mistake.true].item(), abs=1e-14)
        assert mistake.p_predicted == pytest.approx(p[mistake.row].max().item(), abs=1e-14)


def some_counts(num_classes: int) -> np.ndarray:
    chance = np.random.default_rng(0)
    return chance.integers(0, 3, (num_classes, num_classes)) + np.diag(chance.integers(1, 90, num_classes))


def names(num_classes: int) -> list[str]:
    return [f"{LONG[index % len(LONG)]} {index}" for index in range(num_classes)]


def boxes(texts) -> list:
    """Where the texts of a figure that was drawn stand, in pixels."""
    return [text.get_window_extent() for text in texts if text.get_text()]


@pytest.mark.parametrize("num_classes", [2, 10, 24, 25, 100])
def test_a_confusion_matrix_is_readable(num_classes):
    counts = some_counts(num_classes)
    figure = draw_confusion(counts, names(num_classes), "a net on data")
    figure.canvas.draw()
    matrix, bars, pairs = figure.axes
    shown = drawable_names(names(num_classes))
    for axis in (matrix.yaxis, matrix.xaxis):
        labels = axis.get_ticklabels()
        assert [label.get_text() for label in labels] == shown
        assert min(label.get_fontsize() for label in labels) >= POINTS_LEGIBLE
        places, (around,) = boxes(labels), boxes([axis.label])
        assert not any(one.overlaps(other) for one, other in pairwise(places))
        assert not any(around.overlaps(place) for place in places)
    width, height = figure.canvas.get_width_height()
    words = [*matrix.texts, *bars.texts, *pairs.texts, matrix.xaxis.label, matrix.yaxis.label]
    for box in boxes([*words, *matrix.get_yticklabels(), *matrix.get_xticklabels(), *figure.texts]):
        assert box.x0 >= 0
        assert box.y0 >= 0
        assert box.x1 <= width
        assert box.y1 <= height
    assert [f"{100 * share:.1f}" for share in find_recall(counts)] == [t.get_text() for t in bars.texts]


def test_counts_stand_in_their_cells_and_shades_are_shares():
    counts = np.array([[8, 2, 0], [0, 5, 5], [0, 0, 0]])
    figure = draw_confusion(counts, ["a", "b", "c"], "a net on data")
    matrix, bars, pairs = figure.axes
    assert {text.get_position(): text.get_text() for text in matrix.texts} == {
        (0, 0): "8",
        (1, 0): "2",
        (1, 1): "5",
        (2, 1): "5",
    }
    shares = [[0.8, 0.2, 0], [0, 0.5, 0.5], [0, 0, 0]]
    np.testing.assert_allclose(matrix.images[0].get_array() ** 2, shares, atol=1e-15)
    assert [text.get_text() for text in bars.texts] == ["80.0", "50.0", "no rows"]
    assert [text.get_text() for text in pairs.texts] == ["5", "b → c", "2", "a → b"]
    assert "7 of 20 held-out pictures" in figure.get_suptitle()


def test_hundreds_of_classes_are_drawn_too():
    counts = np.diag(np.ones(300, dtype=int))
    picture = imread(io.BytesIO(to_png(draw_confusion(counts, names(300), "a net on data"))))
    assert min(picture.shape[:2]) > 1000
    assert max(picture.shape[:2]) < 4000


AWKWARD = ["$x^2$", "two\nlines", "日本", "$\\frac{", "a_b", "%s {0}"]


def test_names_are_taken_as_they_are_written():
    assert drawable_names(AWKWARD) == ["$x^2$", "two lines", "#2", "$\\frac{", "a_b", "%s {0}"]
    assert drawable_names(["a" * 23])[0] == "a" * 21 + "…"
    # Mathematics that cannot be parsed would raise, and a missing letter would warn, which is an error here.
    to_png(draw_confusion(some_counts(6), AWKWARD, "$\\frac{ on folder:$x$"))
    logits, labels = torch.eye(6), torch.arange(6).roll(1)
    pixels = torch.zeros(6, 3, 8, 8, dtype=torch.uint8)
    to_png(draw_mistakes(find_mistakes(logits, labels), pixels, AWKWARD, "$\\frac{"))


@pytest.mark.parametrize("channels", [1, 3])
def test_mistakes_are_shown_as_they_are_served(channels):
    pixels = torch.randint(256, (20, channels, 9, 7), dtype=torch.uint8)
    logits = torch.zeros(20, 3)
    logits[:, 1] = torch.arange(20) / 4
    labels = torch.tensor([0] * 18 + [1] * 2)
    mistakes = find_mistakes(logits, labels, limit=20)
    figure = draw_mistakes(mistakes, pixels, ["cat", "dog", "cow"], "a net on data")
    assert [mistake.row for mistake in mistakes] == [*reversed(range(18)), 18, 19]
    for axes, mistake in zip(figure.axes, mistakes, strict=True):
        shown = np.asarray(axes.images[0].get_array()).reshape(9, 7, channels)
        np.testing.assert_array_equal(shown, pixels[mistake.row].permute(1, 2, 0).numpy())
    # Row 0 is right, by the order of its equal logits. The worst one: e^4.25 / (e^4.25 + 2) = 0.97 and
    # 1 / (e^4.25 + 2) = 0.014; the last one: e^4.75 / (e^4.75 + 2) = 0.98.
    words = [(text.get_text(), to_hex(text.get_color())) for text in figure.texts]
    assert words[1:3] == [("predicted dog, 97 %", HELD_OUT_COLOR), ("true cat, 1.4 %", INK)]
    assert words[-2:] == [("predicted dog, 98 %", INK), ("true dog, 98 %", INK)]
    assert figure.get_suptitle().endswith("20 held-out pictures of the highest loss, 17 of them wrong")


def test_words_under_pictures_stay_with_their_picture():
    pixels = torch.zeros(12, 1, 8, 8, dtype=torch.uint8)
    logits, labels = 20 * torch.eye(12), torch.arange(12).roll(1)
    figure = draw_mistakes(find_mistakes(logits, labels), pixels, ["aquarium fish and more"] * 12, "a net")
    figure.canvas.draw()
    everything = boxes(figure.texts)
    for index, box in enumerate(everything):
        assert not any(box.overlaps(other) for other in everything[index + 1 :])
    assert max(box.x1 for box in everything) <= figure.canvas.get_width_height()[0]


def epochs(losses: list[float]) -> list[EpochFacts]:
    return [
        EpochFacts(
            epoch=index,
            step=10 * index,
            learning_rate=0.1,
            train_loss=loss,
            train_accuracy=0.5,
            held_out_loss=loss,
            held_out_accuracy=0.25,
        )
        for index, loss in enumerate(losses, 1)
    ]


@pytest.mark.parametrize(
    ("losses", "ticks"),
    [([1.0, 0.1, 0.01], [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0]), ([0.28, 0.26, 0.24], None), ([0.3], None)],
)
def test_every_range_of_losses_has_ticks(losses, ticks):
    figure = draw_curves(epochs(losses), "a net on data")
    figure.canvas.draw()
    loss = figure.axes[0]
    least, most = loss.get_ylim()
    shown = [tick for tick in loss.get_yticks() if least <= tick <= most]
    assert len(shown) >= 3
    if ticks:
        assert shown == pytest.approx(ticks)


@pytest.mark.parametrize("losses", [[0.0, 0.0], [0.5] * 300, [1e-9, 1e3]], ids=["none", "many", "wide"])
def test_any_losses_can_be_drawn(losses):
    assert to_png(draw_curves(epochs(losses), "a net on data")).startswith(b"\x89PNG")


def test_many_runs_are_told_apart():
    histories = {f"runs/{index}": epochs([0.5, 0.1 + index / 20]) for index in range(16)}
    picture = imread(io.BytesIO(to_png(draw_comparison(histories, "held out"))))[..., :3]
    colors = {tuple(color) for color in (picture[::2, ::2].reshape(-1, 3) * 255).round().astype(int)}
    assert {(0, 114, 178), (213, 94, 0), (0, 158, 115)} <= colors
