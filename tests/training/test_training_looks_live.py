"""The live display: what it says, when it draws, and that the loop neither waits for it nor changes by it."""

import io
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fit_kit import few_digits, fresh_net
from training.augment import choose_augmentation
from training.console import say
from training.data import DataFacts, normalize
from training.loop.facts import EpochFacts, StepFacts
from training.loop.fit import fit
from training.loop.loss_watch import CHECK_EVERY, LossWatch
from training.runs.display import Display, describe_seconds
from training.settings.config import FitConfig

ROOT = Path(__file__).parents[2]
STEPS = 40


class Clock:
    """Time that passes when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def step(epoch: int, index: int, *, known: bool = True) -> StepFacts:
    loss, accuracy = (1.25, 0.625) if known else (None, None)
    return StepFacts(
        epoch=epoch, index=index, num_steps=STEPS, num_rows=8 * index, loss=loss, accuracy=accuracy
    )


def end(epoch: int) -> EpochFacts:
    return EpochFacts(
        epoch=epoch,
        step=STEPS * epoch,
        learning_rate=0.1,
        train_loss=1.0,
        train_accuracy=0.5,
        held_out_loss=0.75,
        held_out_accuracy=0.875,
    )


def show(
    epochs: range, *, num_epochs: int = 4, terminal: bool = False, step_s: float = 0.1, begin_s: float = 0.0
) -> str:
    """What a run of these epochs writes, 2 s of evaluation each; `begin_s` pass before the first step."""
    clock, written = Clock(), io.StringIO()
    console = Console(file=written, force_terminal=terminal, width=160, highlight=False)
    with Display(console, num_epochs, epochs.start - 1, clock=clock) as display:
        clock.now += begin_s
        for epoch in epochs:
            for index in range(1, STEPS + 1):
                clock.now += step_s
                display.on_step(step(epoch, index, known=index >= 16))
            clock.now += 2
            display.end_epoch(end(epoch))
    return written.getvalue()


def frames(written: str) -> list[str]:
    """What a terminal showed, one after the other."""
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "\n", re.sub(r"\x1b\[[0-9;]*m", "", written))
    return [line.strip() for line in re.split(r"[\r\n]", plain) if line.strip()]


def test_without_a_terminal_there_is_one_line_an_epoch():
    # 40 steps of 8 images in 4 s, then 2 s of evaluation: 80 images/s, and 6 s for each epoch that is left.
    begin, middle = "epoch   {}/4   step {}   train: loss 1.0000, accuracy 50.00%   ", "   6.0 s, 80 images/s"
    held_out = "held out: loss 0.7500, accuracy 87.50%"
    assert show(range(1, 5)).splitlines() == [
        begin.format(epoch, 40 * epoch) + held_out + middle + left
        for epoch, left in zip(range(1, 5), (", 0:18 left", ", 0:12 left", ", 0:06 left", ""), strict=True)
    ]


def test_without_a_terminal_no_half_minute_passes_in_silence():
    """An epoch of 82 s; a line is due by 30 s and 60 s, at the first step from then on."""
    lines = show(range(1, 2), step_s=2.0).splitlines()
    steps = [re.search(r"step (\d+)/40", line) for line in lines]
    assert [int(found[1]) for found in steps if found] == [15, 30]
    assert lines[-1].startswith("epoch   1/4   step 40 ")


def test_on_a_narrow_terminal_an_epoch_is_one_line():
    written = io.StringIO()
    with Display(Console(file=written, force_terminal=True, width=80, highlight=False), 400) as display:
        display.end_epoch(end(1))
    (line,) = [line for line in frames(written.getvalue()) if "held out" in line]
    assert len(line) <= 80
    assert "train 1 50.00%  held out 0.75 87.50%" in line


def test_what_the_first_step_waits_for_is_not_the_loops_speed():
    (line,) = show(range(1, 2), begin_s=5).splitlines()
    assert line.endswith("   11.0 s, 80 images/s, 0:33 left")


def test_a_run_that_goes_on_foresees_by_its_own_epochs():
    lines = show(range(3, 5), num_epochs=10).splitlines()
    assert [line.split(", ")[-1] for line in lines] == ["0:42 left", "0:36 left"]


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0:00"), (59.6, "1:00"), (3725, "1:02:05")])
def test_seconds_in_words(seconds, text):
    assert describe_seconds(seconds) == text


def test_on_a_terminal_the_bar_moves_within_an_epoch():
    shown = [line for line in frames(show(range(1, 3), terminal=True)) if "images/s" in line]
    steps = [int(found[1]) for line in shown if (found := re.search(r"step (\d+)/40", line))]
    changes = [number for number, before in zip(steps, [0, *steps], strict=False) if number != before]
    # A step each 0.1 s, and no drawing before 0.25 s have passed; in the second epoch they have by its first.
    assert changes == [*range(3, 40, 3), 40, *range(1, 41, 3)]
    assert "loss" not in shown[0]
    assert any(
        re.match(r"epoch 1/4 .* step 18/40  80 images/s  loss 1.2500  accuracy 62.5%", s) for s in shown
    )
    assert any(re.match(r"epoch   2/4   step 80   train: loss 1.0000", line) for line in shown)


def test_drawing_does_not_come_more_often_than_people_can_see():
    def count(step_s: float) -> int:
        return sum("images/s" in line for line in frames(show(range(1, 2), terminal=True, step_s=step_s)))

    assert count(1e-6) <= 5  # the last step, the epoch's line, and what rich draws around it
    assert count(1.0) >= STEPS


def test_the_loop_tells_each_step_what_it_knows_and_learns_the_same():
    split = few_digits()
    config = FitConfig(epochs=2, batch_size=16, learning_rate=0.05)
    told: list[StepFacts] = []
    watched, alone = fresh_net(split), fresh_net(split)
    epochs = [epoch.facts for epoch in fit(watched, split, config, on_step=told.append)]
    assert epochs == [epoch.facts for epoch in fit(alone, split, config)]
    assert all(map(torch.equal, watched.state_dict().values(), alone.state_dict().values()))
    num_steps = len(split.train_labels) // 16
    assert num_steps % CHECK_EVERY
    assert [(facts.epoch, facts.index) for facts in told] == [
        (epoch, index) for epoch in (1, 2) for index in range(1, num_steps + 1)
    ]
    for before, facts in zip([None, *told], told, strict=False):
        assert facts.num_rows == 16 * facts.index
        looked = facts.index % CHECK_EVERY == 0 or facts.index == num_steps
        if not looked:
            same = before is not None and before.epoch == facts.epoch
            assert (facts.loss, facts.accuracy) == ((before.loss, before.accuracy) if same else (None, None))
    for facts, last in zip(epochs, (told[num_steps - 1], told[-1]), strict=True):
        # The same losses, summed in another order in float64.
        assert last.loss == pytest.approx(facts.train_loss, rel=1e-12)
        assert last.accuracy == facts.train_accuracy


class Transfers(TorchDispatchMode):
    """Notes operations that make the host wait for a device: copies that are not marked as non-blocking."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        answer = func(*args, **(kwargs or {}))
        devices = [
            {leaf.device for leaf in tree_leaves(value) if isinstance(leaf, Tensor)}
            for value in ((args, kwargs), answer)
        ]
        if all(devices) and devices[0] != devices[1] and not (kwargs or {}).get("non_blocking"):
            self.waiting.append(str(func))
        return answer


def one_step(monkeypatch, work) -> list[str]:
    """Where `work` would wait for a device; `meta` is one that has no numbers to wait for."""
    made = torch.tensor
    transfers = Transfers()

    def tensor(*args, **kwargs):
        if torch.device(kwargs.get("device") or "cpu").type != "cpu":
            transfers.waiting.append("torch.tensor")  # copies below where operations can be watched
        return made(*args, **kwargs)

    with monkeypatch.context() as patch, transfers:
        patch.setattr(torch, "tensor", tensor)
        work()
    return transfers.waiting


FACTS = DataFacts(
    name="cifar10", labels=["a", "b"], input_shape=(3, 32, 32), mode="RGB", mean=[0.5] * 3, std=[0.2] * 3
)


@pytest.mark.parametrize("augment", ["affine", "crop,flip,cutout", "shift", "none"])
def test_a_step_asks_the_device_for_nothing(monkeypatch, augment):
    device = torch.device("meta")
    plan = choose_augmentation(augment, "cifar10", FACTS).draw(64, torch.Generator()).to(device)
    pixels = torch.zeros(64, 3, 32, 32, dtype=torch.uint8, device=device)
    rows, labels = torch.arange(8, device=device), torch.zeros(8, dtype=torch.int64, device=device)
    logits, watch = torch.zeros(8, 2, device=device), LossWatch(10, device)

    def work() -> None:
        normalize(plan[rows].apply(pixels[rows]), FACTS)
        watch.add(0, torch.nn.functional.cross_entropy(logits, labels), logits, labels)

    assert one_step(monkeypatch, work) == []


@pytest.mark.parametrize(
    ("work", "noticed"),
    [
        (lambda device: torch.tensor([1.0], device=device), "torch.tensor"),
        (lambda device: torch.ones(2).to(device), "aten._to_copy.default"),
        (lambda device: torch.ones(2).to(device, non_blocking=True), None),
    ],
)
def test_what_waits_for_the_device_would_be_noticed(monkeypatch, work, noticed):
    waiting = one_step(monkeypatch, lambda: work(torch.device("meta")))
    assert waiting == ([noticed] if noticed else [])


def test_a_number_cannot_be_had_of_a_device_without_numbers():
    with pytest.raises(RuntimeError, match="meta"):
        LossWatch(10, torch.device("meta")).find_non_finite()


def test_on_a_real_terminal_the_command_shows_its_bar(tmp_path):
    ours, theirs = pty.openpty()
    flags = ["--device", "cpu", "--epochs", "1", "--net", "mlp", "--net-setting", "hidden=8"]
    command = [sys.executable, "-m", "training", "--out", str(tmp_path / "run"), *flags]
    environment = os.environ | {"TERM": "xterm-256color", "COLUMNS": "160"}
    written = b""
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=theirs, env=environment
    ) as process:
        os.close(theirs)
        while True:
            try:
                more = os.read(ours, 4096)
            except OSError:  # what Linux says when the other end is closed
                break
            if not more:
                break
            written += more
        assert process.stdout is not None
        stdout = process.stdout.read()
    os.close(ours)
    assert process.returncode == 0
    assert stdout.count(b"\n") == 1
    shown = frames(written.decode())
    assert any(re.match(r"epoch 1/1 ━+.* step 62/62  [\d,]+ images/s  loss", line) for line in shown)
    assert sum(line.startswith("epoch   1/1   step 62 ") for line in shown) == 1


@pytest.mark.parametrize(("is_terminal", "num_lines"), [(True, 2), (False, 1)])
def test_a_terminal_breaks_a_line_between_words_and_never_in_a_number(is_terminal, num_lines):
    told = io.StringIO()
    line = "4,000 train rows: 100.00% right by their batches' statistics, however asked 98.76% otherwise"
    assert line[:80].endswith("98.7")
    say(Console(file=told, width=80, force_terminal=is_terminal, color_system=None), line)
    lines = told.getvalue().splitlines()
    assert len(lines) == num_lines
    assert " ".join(lines).split() == line.split()
