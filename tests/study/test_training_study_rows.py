"""The rows that a study learns from: which, how many of each class, in which order, and recall by class."""

import pytest
import torch
from torch import nn

from study.measures import recalls
from study.rows import load_rows, with_class_counts
from study.short_run import draw_batches
from study_kit import NUM_ROWS, a_run
from training.settings.config import ConfigError

pytestmark = pytest.mark.usefixtures("tiny_data")


def test_batches_pass_over_all_rows_in_a_new_order_each_time():
    batches = list(draw_batches(100, a_run(steps=10, batch_size=20)))
    first, second = torch.cat(batches[:5]), torch.cat(batches[5:])
    assert first.sort().values.tolist() == second.sort().values.tolist() == list(range(100))
    assert first.tolist() != second.tolist()
    again = list(draw_batches(100, a_run(steps=10, batch_size=20, norm="none", learning_rate=9.0)))
    assert all(torch.equal(one, other) for one, other in zip(batches, again, strict=True)), (
        "a seed's, whatever trains"
    )


def test_rows_are_the_data_sets_whatever_the_seed(rows):
    again = load_rows.__wrapped__("tiny", NUM_ROWS)
    assert again.digest() == rows.digest()
    assert len(rows.train_y) == 200
    assert len(rows.held_out_y) == 100
    fewer = load_rows.__wrapped__("tiny", 100)
    assert fewer.digest() != rows.digest()
    assert torch.equal(fewer.train_y, rows.train_y[:100])
    assert torch.equal(fewer.held_out_x, torch.cat([rows.held_out_x, rows.train_x[100:150]]))
    with pytest.raises(ConfigError, match="rows must be at most 200, the train half of tiny, got 201"):
        load_rows.__wrapped__("tiny", 201)


def test_classes_get_the_counts_that_are_asked_for_in_an_order_of_the_seed(rows):
    counts = (9, 8, 7, 6, 5, 4, 3, 2, 1, 1)
    fewer, ranks = with_class_counts(rows, counts, seed=3)
    assert [int((fewer.train_y == label).sum()) for label in ranks] == list(counts)
    assert sorted(ranks) == list(range(10)) != ranks
    assert with_class_counts(rows, counts, seed=4)[1] != ranks
    assert torch.equal(fewer.held_out_x, rows.held_out_x)
    result = a_run(class_counts=counts, batch_size=8, steps=30).measure()
    assert len(result["recalls"]) == 10
    assert result["losses"] != a_run(class_counts=counts[::-1], batch_size=8, steps=30).measure()["losses"]


def test_recall_is_accuracy_within_a_class(rows):
    class Constant(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.one_hot(torch.full((len(x),), 3), 10).float()

    assert recalls(Constant(), rows) == [float(label == 3) for label in range(10)]
