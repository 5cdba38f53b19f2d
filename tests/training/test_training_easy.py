"""Easy rows, skipped: which are, what the others count, and that a run continues to the same bits."""

import copy
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fit_kit import few_digits, fresh_net
from training.__main__ import main
from training.distributed.group import ALONE
from training.errors import TrainingError
from training.loop.batches import count_steps
from training.loop.easy import EasyRows
from training.loop.evaluate import cross_entropy
from training.loop.fit import Start, fit
from training.loop.partial import Saving
from training.settings.config import ConfigError, FitConfig

FEW = few_digits()
CONFIG = FitConfig(epochs=5, batch_size=32, skip_easy=0.5, label_smoothing=0.1, augment="none")


def all_seen(losses: Tensor, num_taken: int) -> EasyRows:
    easy = EasyRows(len(losses), num_taken, torch.device("cpu"))
    easy.known.copy_(losses)
    return easy


@given(num_rows=st.integers(2, 60), share=st.floats(0.05, 1), seed=st.integers(0, 2**31))
def test_the_hardest_are_taken_and_the_gradient_is_expected_to_be_that_of_all_rows(num_rows, share, seed):
    num_taken = max(int(share * num_rows), 1)
    generator = torch.Generator().manual_seed(seed)
    losses = torch.randint(0, 5, (num_rows,), generator=generator).float()  # many are equal
    easy = all_seen(losses, num_taken)
    taken = easy.draw(generator, 0.5)
    assert len(taken) == len(set(taken.tolist())) == num_taken
    num_hard = num_taken // 2
    assert (
        sorted(losses[taken].tolist())[num_taken - num_hard :]
        == sorted(losses.tolist())[num_rows - num_hard :]
    )
    # A row's chance to be taken times what it counts is the same for all: m/N.
    counts = easy.counts[taken].double()
    of_easy = counts.max()
    assert of_easy * (num_taken - num_hard) / (num_rows - num_hard) == pytest.approx(
        num_taken / num_rows, rel=1e-6
    )
    assert counts.mean().item() == pytest.approx(1, rel=1e-6)
    if num_hard and num_taken < num_rows:
        assert counts.min().item() == pytest.approx(num_taken / num_rows, rel=1e-6)
        assert (counts < of_easy).sum() == num_hard


def test_every_easy_row_has_the_same_chance():
    easy, generator = all_seen(torch.arange(40.0), 20), torch.Generator().manual_seed(0)
    times = torch.zeros(40)
    for _ in range(2000):
        times[easy.draw(generator, 0.5)] += 1
    assert (times[30:] == 2000).all()
    # 10 of 30: 667 times each, ± 5 standard deviations of √(2000 · ⅓ · ⅔) = 21.
    assert (abs(times[:30] - 2000 / 3) < 105).all()
    assert easy.draw(generator, 0.5).tolist() != sorted(easy.draw(generator, 0.5).tolist())


def test_first_every_row_is_seen_and_last_rows_come_by_even_chance():
    easy, generator = EasyRows(50, 20, torch.device("cpu")), torch.Generator().manual_seed(0)
    seen: set[int] = set()
    for expected in (20, 40, 50):
        taken = easy.draw(generator, 0.1)
        assert (easy.counts == 1).all()
        easy.note(taken, torch.zeros(20, 3), torch.zeros(20, dtype=torch.int64))
        easy.close(taken, ALONE)
        seen |= set(taken.tolist())
        assert len(seen) == expected
        assert not easy.known.isinf()[sorted(seen)].any()
    easy.known.copy_(torch.arange(50.0))
    easy.draw(generator, 0.9)
    assert (easy.counts != 1).any()
    last = [set(easy.draw(generator, 0.95).tolist()) for _ in range(5)]
    assert (easy.counts == 1).all()
    assert not all(set(range(40, 50)) <= taken for taken in last)


def test_what_is_noted_is_the_loss_itself_and_counts_are_factors_on_it():
    easy, chance = all_seen(torch.arange(8.0), 4), torch.Generator().manual_seed(1)
    taken = easy.draw(chance, 0.5)
    logits, labels = torch.randn(4, 3, generator=chance), torch.tensor([0, 2, 1, 1])
    counts = easy.note(taken, logits, labels)
    each = -logits.log_softmax(1)[torch.arange(4), labels]
    torch.testing.assert_close(cross_entropy(logits, labels, counts=counts), (counts * each).mean())
    assert set(counts.tolist()) == {0.5, 1.5}
    easy.close(taken, ALONE)
    torch.testing.assert_close(easy.known[taken], each)
    others = [row for row in range(8) if row not in taken.tolist()]
    assert easy.known[others].tolist() == [float(row) for row in others]


def test_an_epoch_takes_half_the_steps_and_the_net_learns():
    *_, last = epochs = list(fit(fresh_net(FEW), FEW, replace(CONFIG, epochs=24)))
    assert count_steps(FEW, CONFIG) == 5 == count_steps(FEW, replace(CONFIG, skip_easy=0.0)) // 2
    assert last.facts.step == 120
    assert last.facts.held_out_accuracy > 0.85 > epochs[0].facts.held_out_accuracy


@pytest.mark.parametrize("forgotten", [False, True])
@pytest.mark.parametrize("epochs_done", [2, 3])
def test_a_run_continues_to_the_same_bits_and_only_with_every_row_s_loss(epochs_done, forgotten):
    *_, whole = fit(fresh_net(FEW), FEW, CONFIG)
    run, begun = fresh_net(FEW), None
    for epoch in fit(run, FEW, CONFIG):
        if epoch.facts.epoch == epochs_done:
            begun = copy.deepcopy((epoch.net.state_dict(), epoch.state))
            break
    weights, state = begun
    if forgotten:
        known = torch.arange(len(FEW.train_labels)).float()
        state = replace(state, row_losses={**state.row_losses, "known": known})
    run.load_state_dict(weights)
    *_, last = fit(run, FEW, CONFIG, Start(epochs_done=epochs_done, state=state))
    assert (last.facts == whole.facts) is not forgotten


@pytest.mark.parametrize("forgotten", [False, True])
def test_a_run_continues_within_an_epoch_to_the_same_bits(forgotten):
    saved = []
    saving = Saving(every=3, save=lambda net, state: saved.append(copy.deepcopy((net.state_dict(), state))))
    *_, whole = history = list(fit(fresh_net(FEW), FEW, CONFIG, saving=saving))
    weights, state = saved[2]  # after 3 of the 5 steps of the third epoch, the first that chooses
    if forgotten:
        state = replace(state, row_losses={**state.row_losses, "found": torch.zeros(len(FEW.train_labels))})
    resumed = fresh_net(FEW)
    resumed.load_state_dict(weights)
    start = Start(epochs_done=2, state=state, history=[done.facts for done in history[:2]])
    *_, last = fit(resumed, FEW, CONFIG, start)
    assert (last.facts == whole.facts) is not forgotten


@pytest.mark.parametrize("found", [{}, {"known": torch.zeros(3), "found": torch.zeros(3)}])
def test_a_start_without_the_losses_of_these_rows_is_one_sentence(found):
    net = fresh_net(FEW)
    state = next(fit(net, FEW, CONFIG)).state
    with pytest.raises(TrainingError, match="lacks what this run needs to resume"):
        next(fit(net, FEW, CONFIG, Start(epochs_done=1, state=replace(state, row_losses=found))))


def test_a_share_of_rows_is_not_rounded_down_by_a_hair():
    ten = replace(FEW, train_pixels=FEW.train_pixels[:10], train_labels=FEW.train_labels[:10])
    assert (
        count_steps(ten, FitConfig(batch_size=3, skip_easy=0.7)) == 1
    )  # (1 − 0.7) · 10 = 3.0000000000000004
    assert (
        count_steps(ten, FitConfig(batch_size=2, skip_easy=0.8)) == 1
    )  # (1 − 0.8) · 10 = 1.9999999999999996
    with pytest.raises(ConfigError, match=r"at most 2, the rows of an epoch with skip_easy 0\.8, got 3"):
        count_steps(ten, FitConfig(batch_size=3, skip_easy=0.8))


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (("--skip-easy", "1"), "skip_easy must lie in 0 .. 1, below 1, got 1.0"),
        (("--skip-easy", "0.5", "--sampling", "balanced"), "leave out sampling balanced"),
    ],
)
def test_mistakes_are_one_sentence(tmp_path, capsys, flags, told):
    assert main(["--out", str(tmp_path / "run"), *flags]) == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
