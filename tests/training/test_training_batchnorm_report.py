"""What training leaves in the BatchNorms: each fact planted, found, and carried to where people look."""

import json
import math
import re
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from batchnorm_reference import population
from export.__main__ import main as export
from training.__main__ import main
from training.batchnorm.report import examine
from training.batchnorm.small_batches import SMALLEST_COUNT, count_positions, describe_small_batch
from training.batchnorm.statistics import SMALLEST_GAMMA, find_batchnorms, recalibrate
from training.data import DATA_SETS, Split
from training.loop.fit import fit
from training.nets import NetError, new_net, read_net_settings, settings_for
from training.runs.checkpoint import load_checkpoint
from training.settings.config import FitConfig
from training_kit import FACTS, SMALLEST, tiny_split

ROWS, CHANNELS = 64, 6


def net_of_one() -> nn.Module:
    """A net with one BatchNorm; seeded, for a net of another draw may be right as often in both modes."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, CHANNELS), nn.BatchNorm1d(CHANNELS), nn.Linear(CHANNELS, 3)).double()


@pytest.fixture
def data() -> list[tuple[Tensor, Tensor]]:
    chance = torch.Generator().manual_seed(0)
    rows = torch.randn(ROWS, 4, dtype=torch.float64, generator=chance) * 3 + 1
    labels = torch.randint(0, 3, (ROWS,), generator=chance)
    return list(zip(rows.split(16), labels.split(16), strict=True))


def test_a_drift_is_that_of_the_formulas(data):
    net = net_of_one()
    norm = net[1]
    read = net[0](torch.cat([rows for rows, _ in data])).detach()
    mean, biased = population(read.numpy())
    variance = biased * ROWS / (ROWS - 1)
    norm.running_mean.copy_(torch.from_numpy(mean))
    norm.running_var.copy_(torch.from_numpy(variance))
    settled = examine(net, lambda: data, recalibrate=False).layers[0]
    assert settled.mean_drift < 1e-12
    assert settled.variance_drift == pytest.approx(1, abs=1e-12)
    assert (settled.name, settled.channels, settled.values) == ("1", CHANNELS, ROWS)
    with torch.no_grad():
        norm.running_mean[2] += 7
        norm.running_var[3] /= 5
    drifted = examine(net, lambda: data, recalibrate=False).layers[0]
    assert drifted.mean_drift == pytest.approx(7 / math.sqrt(variance[2] + norm.eps), rel=1e-12)
    assert drifted.variance_drift == pytest.approx(
        (variance[3] + norm.eps) / (variance[3] / 5 + norm.eps), rel=1e-12
    )
    with torch.no_grad():
        norm.running_var[3] *= 5 * 6
    assert examine(net, lambda: data, recalibrate=False).layers[0].variance_drift == pytest.approx(
        (6 * variance[3] + norm.eps) / (variance[3] + norm.eps), rel=1e-12
    )


def test_dead_negative_and_near_zero_channels_are_counted(data):
    net = net_of_one()
    norm = net[1]
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([1.0, 0.0, SMALLEST_GAMMA, -SMALLEST_GAMMA / 2, -1.0, 2.0]))
        norm.running_var.copy_(torch.tensor([1.0, 1.001 * norm.eps, norm.eps / 2, 0.0, 4.0, 0.5]))
    layer = examine(net, lambda: data, recalibrate=False).layers[0]
    assert (layer.dead_gamma, layer.negative_gamma, layer.near_zero_variance) == (3, 2, 2)
    assert layer.smallest_variance == 0.0


def test_a_batchnorm_without_gamma_has_none_that_are_dead(data):
    net = net_of_one()
    net[1] = nn.BatchNorm1d(CHANNELS, affine=False).double()
    layer = examine(net, lambda: data, recalibrate=False).layers[0]
    assert (layer.dead_gamma, layer.negative_gamma) == (0, 0)


def accuracy(net: nn.Module, data: list[tuple[Tensor, Tensor]]) -> float:
    with torch.no_grad():
        right = [(net(rows).argmax(1) == labels).double() for rows, labels in data]
    return torch.cat(right).mean().item()


def test_accuracies_are_those_of_train_mode_of_eval_mode_and_of_the_recalibrated_net(data):
    net = net_of_one()
    with torch.no_grad():
        net[1].running_mean.fill_(50.0)
    by_running = accuracy(net.eval(), data)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    report = examine(net, lambda: data, recalibrate=False)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert not any(module.training for module in net.modules())
    assert not net[1]._forward_pre_hooks
    assert report.rows == ROWS
    assert report.accuracy_by_running == by_running
    assert report.accuracy_recalibrated is None
    again = examine(net, lambda: data, recalibrate=True)
    assert replace(again, accuracy_recalibrated=None) == report, "drift is what training left"
    assert again.accuracy_recalibrated == accuracy(net, data)
    statistics = net[1].running_mean.clone(), net[1].running_var.clone()
    recalibrate(net, [rows for rows, _ in data])
    assert all(
        torch.equal(*pair) for pair in zip(statistics, (net[1].running_mean, net[1].running_var), strict=True)
    )
    assert report.accuracy_by_batch == accuracy(net.train(), data)
    assert report.accuracy_by_batch != report.accuracy_by_running
    assert report.summary()["gap"] == report.accuracy_by_batch - by_running


def test_a_net_whose_batchnorms_do_not_run_has_no_report(data):
    assert examine(nn.Linear(4, 3).double(), lambda: data, recalibrate=True) is None

    class Unused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.norm = nn.Linear(4, 3).double(), nn.BatchNorm1d(3)

        def forward(self, rows: Tensor) -> Tensor:
            return self.layer(rows)

    assert examine(Unused(), lambda: data, recalibrate=True) is None


@pytest.fixture(scope="module")
def tiny() -> Split:
    return tiny_split()


def built(name: str) -> nn.Module:
    settings = settings_for(name, FACTS, read_net_settings(name, SMALLEST[name]))
    return new_net(name, settings, torch.Generator().manual_seed(1))


def test_a_fit_reports_with_its_last_epoch_on_what_it_publishes(tiny):
    net = built("resnet")
    first, last = fit(net, tiny, FitConfig(epochs=2, batch_size=50))
    assert first.batchnorm is None
    names = [name for name, module in net.named_modules() if module in set(find_batchnorms(net))]
    assert [layer.name for layer in last.batchnorm.layers] == names
    assert last.batchnorm.rows == 200
    recalibrated = fit(built("resnet"), tiny, FitConfig(epochs=2, batch_size=50, recalibrate_bn=2))
    *_, last = recalibrated
    assert last.batchnorm.rows == 100
    assert last.batchnorm.accuracy_recalibrated is not None


def test_the_report_goes_to_the_checkpoint_the_last_line_and_stderr(tiny, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(DATA_SETS, "tiny", lambda: tiny)
    flags = ["--data", "tiny", "--net", "resnet", "--net-setting", "depth=14", "--net-setting", "width=4"]
    flags += ["--epochs", "1", "--batch-size", "20", "--device", "cpu", "--positive-gamma"]
    assert main(["--out", str(tmp_path), *flags]) == 0
    captured = capsys.readouterr()
    report = load_checkpoint(tmp_path / "checkpoint.pt").batchnorm
    assert json.loads(captured.out)["batchnorm"] == report.summary()
    assert len(report.layers) == 15
    assert "8 of 15 BatchNorms, those that drifted most" in captured.err
    worst = max(report.layers, key=lambda layer: layer.mean_drift)
    line = next(line for line in captured.err.splitlines() if f" {worst.name} " in line)
    assert f"{worst.mean_drift:.2g} σ" in line
    assert f"{report.accuracy_by_batch:.2%} right by their batches' statistics" in captured.err
    assert main(["--out", str(tmp_path), "--resume", "--device", "cpu"]) == 0
    assert json.loads(capsys.readouterr().out)["batchnorm"] == report.summary()
    assert all(
        math.isfinite(value) for value in asdict(report.layers[0]).values() if value != report.layers[0].name
    )


def test_the_report_goes_on_to_the_page_of_the_bundle(tiny, tmp_path, monkeypatch):
    monkeypatch.setitem(DATA_SETS, "tiny", lambda: tiny)
    flags = ["--data", "tiny", "--net", "mlp", "--epochs", "1", "--batch-size", "50", "--device", "cpu"]
    checkpoint = tmp_path / "run" / "checkpoint.pt"
    assert main(["--out", str(checkpoint.parent), *flags, "--recalibrate-bn", "2"]) == 0
    report = load_checkpoint(checkpoint).batchnorm
    assert export(["bundle", str(checkpoint), "--to", str(tmp_path / "model")]) == 0
    page = (tmp_path / "model" / "1" / "report.html").read_text()
    training = page.split("<h2>Training</h2>")[1].split("<h2>")[0]
    assert "<svg" in training
    assert "held out" in training
    section = page.split("<h2>BatchNorm before the fold</h2>")[1].split("<h2>")[0]
    (row,) = re.findall(r"<tr><td>.*?</tr>", section, flags=re.DOTALL)
    cells = [re.sub("<.*?>", "", cell) for cell in re.findall(r"<td.*?</td>", row)]
    (layer,) = report.layers
    expected = asdict(layer) | {"values": f"{layer.values} values"}
    for name in ("mean_drift", "variance_drift", "smallest_variance"):
        expected[name] = f"{expected[name]:.3g}"
    order = ("name", "channels", "mean_drift", "variance_drift", "values", "smallest_variance")
    order += ("near_zero_variance", "dead_gamma", "negative_gamma")
    assert cells == [str(expected[name]) for name in order]
    for accuracy in (report.accuracy_by_batch, report.accuracy_by_running, report.accuracy_recalibrated):
        assert f"{100 * accuracy:.2f} %" in section

    record = torch.load(checkpoint, weights_only=True)
    torch.save(record | {"batchnorm": None}, checkpoint)
    assert export(["bundle", str(checkpoint), "--to", str(tmp_path / "model")]) == 0
    assert "before the fold" not in (tmp_path / "model" / "2" / "report.html").read_text()


def test_positions_are_those_that_each_batchnorm_reads():
    assert count_positions(built("cnn"), FACTS.input_shape) == {"blocks.1": 256, "blocks.5": 64, "head.1": 1}
    net = built("cnn")
    count_positions(net, FACTS.input_shape)
    assert net.training
    assert not any(norm._forward_pre_hooks for norm in find_batchnorms(net))
    assert all(norm.num_batches_tracked == 0 for norm in find_batchnorms(net))


def test_rows_that_the_net_cannot_take_are_one_sentence():
    with pytest.raises(NetError, match=r"the net cannot take rows of \(1, 40, 17\): ") as caught:
        count_positions(built("cnn"), (1, 40, 17))
    assert "\n" not in str(caught.value)


@given(st.integers(2, 100), st.dictionaries(st.text(min_size=1), st.integers(1, 100), min_size=1))
@settings(max_examples=100)
def test_a_batch_is_small_where_a_batchnorm_reads_too_few_values_and_the_advice_is_enough(rows, positions):
    told = describe_small_batch(positions, rows)
    assert (told is not None) == any(rows * count < SMALLEST_COUNT for count in positions.values())
    if told is not None:
        enough = int(told.split("take ")[1].split()[0])
        assert describe_small_batch(positions, enough) is None
        assert describe_small_batch(positions, enough - 1) is not None


def test_the_stated_error_is_that_of_the_variance_of_normal_values():
    """20,000 variances of n values each: their spread is known to 1/√(2·20,000) = 0.5 %; 3 of these."""
    chance = np.random.default_rng(0)
    for n in (8, SMALLEST_COUNT):
        spread = chance.normal(size=(20_000, n)).var(axis=1, ddof=1).std()
        assert spread == pytest.approx(math.sqrt(2 / (n - 1)), rel=0.015 * (1 + 12 / n) ** 0.5)
    assert "from 8 values, to ±53% at best; take 32 rows or more" in describe_small_batch({"a": 1, "b": 9}, 8)


def test_a_small_batch_is_told_before_training_and_a_large_one_is_not(tiny, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(DATA_SETS, "tiny", lambda: tiny)
    flags = ["--data", "tiny", "--net", "mlp", "--epochs", "1", "--device", "cpu"]
    assert main(["--out", str(tmp_path / "small"), *flags, "--batch-size", "8"]) == 0
    lines = capsys.readouterr().err.splitlines()
    (at,) = (index for index, line in enumerate(lines) if line.startswith("warning: a batch of 8 is small"))
    assert at < next(index for index, line in enumerate(lines) if line.startswith("epoch "))
    assert main(["--out", str(tmp_path / "large"), *flags, "--batch-size", "50"]) == 0
    assert "warning" not in capsys.readouterr().err
