"""The training benchmark: both sides do the same work, and a slower loop would be detected."""

from collections.abc import Callable
from dataclasses import replace
from itertools import chain, count

import pytest
import torch
from torch import Tensor, nn

from benchmarks.resnets import resnet18, resnet50
from benchmarks.training import __main__ as command
from benchmarks.training import cases, floors, rounds
from benchmarks.training.cases import BUILDERS, Case, choose_cases
from benchmarks.training.floors import Speed, Traffic, Work, count_work
from benchmarks.training.rounds import BARE, OURS, Rounds, measure
from benchmarks.training.table import Line, render
from training.loop.fit import fit
from training.loop.loss_watch import CHECK_EVERY

CPU = torch.device("cpu")
TINY = Case(name="small-cnn", shape=(1, 8, 8), num_classes=3, batch_size=4, num_steps=3)


@pytest.fixture(autouse=True)
def _tiny(monkeypatch):
    """Replace the measured nets by a tiny one."""

    def build(case: Case) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)
        )

    monkeypatch.setitem(BUILDERS, "small-cnn", build)
    monkeypatch.setattr(cases, "choose_cases", lambda device_type, *, quick: [TINY])


class Machine:
    """A fake clock: each reading takes a second, sleeping takes its time, computing takes none."""

    def __init__(self) -> None:
        self.now = 0.0

    def clock(self) -> float:
        self.now += 1
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.mark.parametrize(
    ("net", "side", "num_classes", "expected"),
    [
        (resnet18, 224, 1000, 11_689_512),  # as torchvision counts its resnet18 and resnet50
        (resnet50, 224, 1000, 25_557_032),
        (
            resnet18,
            32,
            10,
            11_173_962,
        ),  # the first − 49·3·64 (stem) − 513,000 (head) + 27·64 + 5,130
    ],
)
def test_the_nets_have_their_published_numbers_of_parameters(net, side, num_classes, expected):
    with torch.device("meta"):
        built = net(side, num_classes)
    assert sum(parameter.numel() for parameter in built.parameters()) == expected
    # Down to 7×7 of 224 pixels, and to 4×4 of 32.
    features = built.blocks(built.stem(torch.zeros(2, 3, side, side, device="meta")))
    assert features.shape[2:] == ((7, 7) if side == 224 else (4, 4))


def test_both_sides_end_with_the_same_weights():
    finished: list[int] = []
    found = measure(TINY, CPU, 3, on_round=finished.append)
    assert found.difference == 0
    assert finished == [0, 1, 2, 3]
    assert [set(took) for took in found.seconds] == [{OURS, BARE}] * 3
    assert found.num_images == 12


@pytest.mark.parametrize(
    "other", [{"learning_rate": 0.011}, {"weight_decay": 0.0}, {"seed": 1}, {"schedule": "cosine"}]
)
def test_sides_that_do_different_work_would_be_detected(monkeypatch, other):
    bare = rounds.bare_epochs
    monkeypatch.setattr(
        rounds,
        "bare_epochs",
        lambda net, split, config, clock: bare(net, split, replace(config, **other), clock),
    )
    assert measure(TINY, CPU, 1).difference > 0


@pytest.mark.alone
@pytest.mark.parametrize(("planted_s", "ratio"), [(0.0, 1.0), (0.01, 1 / 1.03), (0.1, 1 / 1.3)])
def test_a_sleep_in_each_of_our_steps_shows_in_the_ratio(planted_s, ratio):
    machine = Machine()
    found = measure(TINY, CPU, 2, planted_s=planted_s, clock=machine.clock, sleep=machine.sleep)
    # A second for each side, and 3 sleeps for ours.
    assert found.ratios == pytest.approx([ratio, ratio])
    assert found.is_reached == (ratio >= 0.97)
    assert found.images_per_s(BARE) == pytest.approx(12)
    assert found.images_per_s(OURS) == pytest.approx(12 * ratio)


def test_sides_alternate_in_alternating_order():
    order: list[str] = []

    def side(name: str):
        for value in count():
            order.append(name)
            yield float(value)

    sides = {name: side(name) for name in (OURS, BARE)}
    taken = list(rounds.take_turns(sides, 3))
    assert taken == [{OURS: value, BARE: value} for value in (0.0, 1.0, 2.0)]
    assert order == [BARE, OURS, OURS, BARE, BARE, OURS]


def test_the_ratio_is_the_median_of_each_rounds_own():
    took = [{OURS: 2.0, BARE: 1.0}, {OURS: 10.0, BARE: 9.8}, {OURS: 1.0, BARE: 1.1}]
    found = Rounds(num_images=10, seconds=took, difference=0.0)
    assert found.ratio == 9.8 / 10
    assert found.is_reached
    assert not replace(found, seconds=took[:1]).is_reached


def traffic_of(work: Callable[[], object]) -> int:
    with Traffic() as traffic:
        work()
    return traffic.num_bytes


KIB = torch.zeros(256)  # float32


@pytest.mark.parametrize(
    ("work", "kib"),
    [
        (lambda x: x + 1, 2),  # read, write
        (lambda x: x + x, 3),
        (lambda x: x.add_(1), 2),
        (lambda x: x.view(16, 16).t(), 0),
        (lambda x: torch.empty_like(x), 0),
        (lambda x: x.double(), 3),
        (lambda x: torch.stack([x, x]), 4),
    ],
)
def test_bytes_are_what_operations_read_and_write(work, kib):
    assert traffic_of(lambda: work(KIB.clone())) - traffic_of(KIB.clone) == 1024 * kib


def test_flops_of_a_step_are_those_on_paper():
    # A Conv of 4 channels, 9 weights each, at 6×6 places; a Linear of 144·3; both forward, and backward for
    # their weights; the Linear for its input too, the Conv's input needs no gradient.
    conv, linear = 2 * 4 * (4 * 9 * 36), 2 * 4 * (144 * 3)
    work = count_work(TINY, CPU)
    assert work.flops == 2 * conv + 3 * linear
    assert work.flops == count_work(replace(TINY, num_steps=7), CPU).flops
    # At a minimum, the step reads and writes each weight, and writes and reads the Conv's output.
    assert work.num_bytes > 2 * 4 * (36 + 144 * 3) + 2 * 4 * 4 * 144


def test_floors_are_work_over_speed():
    speed, work = Speed(flops_per_s=1e12, bytes_per_s=1e10), Work(flops=2 * 10**12, num_bytes=10**10)
    assert (speed.arithmetic_s(work), speed.memory_s(work)) == (2.0, 1.0)


def test_the_table_has_a_line_for_each_case():
    slow = Rounds(num_images=12, seconds=[{OURS: 2.0, BARE: 1.0}] * 2, difference=0.0)
    fast = replace(slow, seconds=[{OURS: 1.0, BARE: 1.0}] * 2)
    lines = [Line(case=TINY, rounds=it, work=Work(flops=8 * 10**9, num_bytes=10**9)) for it in (fast, slow)]
    text = render(lines, Speed(flops_per_s=1e10, bytes_per_s=1e10), CPU, 2, ["--quick"])
    # 4 images in 0.8 s by arithmetic, in 0.1 s by memory; 12 images/s are 2.4 of what arithmetic allows.
    assert "| small-cnn | 1×8×8 | 4 | 12 | 12 | 1.000 | 1.000 to 1.000 | 5 | 40 | 2.40 | 0 |" in text
    assert "| small-cnn | 1×8×8 | 4 | 6 | 12 | 0.500 | 0.500 to 0.500 | 5 | 40 | 1.20 | 0 |" in text
    assert "reached in 1 of 2 lines" in text
    assert "`python -m benchmarks.training --quick`" in text
    assert f"torch {torch.__version__}" in text


@pytest.fixture
def _no_device_is_measured(monkeypatch):
    monkeypatch.setattr(
        floors, "measure_speed", lambda device, dtype: Speed(flops_per_s=1e9, bytes_per_s=1e9)
    )


@pytest.mark.usefixtures("_no_device_is_measured")
def test_the_command_prints_and_keeps_its_table(tmp_path, capsys):
    arguments = ["--device", "cpu", "--rounds", "2", "--out", str(tmp_path / "results")]
    code = command.main(arguments)
    captured = capsys.readouterr()
    assert "no GPU is used" in captured.err
    text = (tmp_path / "results" / "training.md").read_text(encoding="utf-8")
    assert captured.out.strip() == text.strip()
    reached = "reached in 1 of 1 lines" in text
    assert code == (0 if reached else 1)


@pytest.mark.usefixtures("_no_device_is_measured")
def test_a_long_enough_sleep_misses_the_target(capsys):
    # A tiny step takes far less than the 50 ms that are planted in each of ours.
    assert command.main(["--device", "cpu", "--rounds", "1", "--control", "50"]) == 1
    assert "reached in 0 of 1 lines" in capsys.readouterr().out


def test_the_device_is_measured_by_a_product_and_a_copy(monkeypatch):
    taken = chain([9.0, 0.5], [9.0] * 9, [9.0, 0.25], [9.0] * 9)
    now = [0.0]

    def clock() -> float:
        return now[0]

    def passing(work: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def run(*arguments: Tensor) -> Tensor:
            now[0] += next(taken)
            return work(*arguments)

        return run

    monkeypatch.setattr(floors.time, "perf_counter", clock)
    monkeypatch.setattr(torch, "mm", passing(lambda one, other: one))
    monkeypatch.setattr(Tensor, "copy_", passing(lambda target, source: target))
    speed = floors.measure_speed(CPU, torch.float32)
    assert speed == Speed(flops_per_s=2 * 2048**3 / 0.5, bytes_per_s=2 * 2**28 / 0.25)


def test_a_gpu_gets_what_was_asked_for_and_a_cpu_less():
    shapes = {(case.name, case.shape) for case in choose_cases("cuda", quick=False)}
    assert {("resnet18", (3, 32, 32)), ("resnet50", (3, 224, 224))} <= shapes
    for quick in (False, True):
        for big, small in zip(
            choose_cases("cuda", quick=quick), choose_cases("cpu", quick=quick), strict=True
        ):
            assert small.batch_size <= big.batch_size
            assert small.name == big.name


SETTINGS = ("--net", "mlp", "--net-setting", "hidden=8", "--batch-size", "200", "--epochs", "3")


@pytest.mark.parametrize(
    ("target", "code", "expected"), [("0.3", 0, "reached "), ("1", 1, "did not reach 100.00%")]
)
def test_time_to_accuracy(capsys, target, code, expected):
    arguments = ["--to-accuracy", target, "--data", "digits", "--device", "cpu", "--", *SETTINGS]
    assert command.main(arguments) == code
    (sentence,) = capsys.readouterr().out.splitlines()
    assert sentence.startswith(f"digits on cpu: {expected}")
    assert "3 epochs of 4,000 images" in sentence
    assert ("3 of 3" in sentence) == bool(code)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--to-accuracy", "0.9", "--data", "npz:/nowhere.npz"], "/nowhere.npz"),
        (["--to-accuracy", "0.9", "--data", "digits", "--", "--epochs", "0"], "epochs must be at least 1"),
        (["--to-accuracy", "0.9", "--data", "digits", "--", "--colour"], "unrecognized arguments: --colour"),
        (["--to-accuracy", "1.5"], "--to-accuracy must be above 0 and at most 1"),
        (["--rounds", "0"], "--rounds must be at least 1"),
        (["--", "--epochs", "2"], "flags of the fit need --to-accuracy"),
        (["--only", "small-cn"], "did you mean small-cnn?"),
    ],
)
def test_a_mistake_is_reported(capsys, arguments, message):
    try:
        code = command.main(["--device", "cpu", *arguments])
    except SystemExit as stopped:
        code = stopped.code
    captured = capsys.readouterr()
    assert code == 2
    assert captured.out == ""
    assert message in captured.err.splitlines()[-1]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="this torch has no CUDA device")
def test_a_step_of_ours_never_waits_for_the_gpu():
    case = replace(TINY, num_steps=40)
    device = torch.device("cuda")
    steps = 0

    def on_step(facts: object) -> None:
        nonlocal steps
        steps += 1
        looks = (steps + 1) % CHECK_EVERY == 0 or steps + 1 == 40
        torch.cuda.set_sync_debug_mode("default" if looks or steps == 40 else "error")

    for _ in fit(case.build_net(device), case.make_split(device), case.config(1), on_step=on_step):
        torch.cuda.set_sync_debug_mode("default")
    assert steps == 40
