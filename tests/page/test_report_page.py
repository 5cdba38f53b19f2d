"""A report in a real browser: no wider than a telephone, whatever is in it."""

from pathlib import Path

import onnx
import pytest

import browser_kit
from export_kit import run_here
from extras import AXE
from file_kit import model, node, norm, norm_arrays, weights


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a bundle that takes pictures."""
    folder = tmp_path_factory.mktemp("report")
    nodes = [node("Conv", "x w", "h"), norm("h", "n"), node("Relu", "n", "r")]
    nodes += [node("GlobalAveragePool", "r", "p"), node("Flatten", "p", "f"), node("Gemm", "f d", "y")]
    arrays = {"w": weights(8, 3, 3, 3), **norm_arrays(8), "d": weights(8, 5)}
    onnx.save(model(nodes, arrays, {"x": ["N", 3, 32, 32]}), folder / "net.onnx")
    flags = ["--mean", "0.5,0.5,0.5", "--std", "0.25,0.25,0.25", "--to", folder / "models/net"]
    done = run_here("bundle", folder / "net.onnx", *flags)
    assert done.returncode == 0, done.stderr
    return folder / "models/net/1/report.html"


def test_every_table_scrolls_by_itself(report):
    """Where there is no browser: a table outside such a box makes the page as wide as itself."""
    text = report.read_text(encoding="utf-8")
    assert text.count("<table") == text.count('"><table') > 3


@pytest.mark.skipif(browser_kit.WHY_NOT is not None, reason=str(browser_kit.WHY_NOT))
@pytest.mark.parametrize("width", [390, 1280])
def test_a_report_is_no_wider_than_the_screen(report, width):
    with browser_kit.chromium() as browser:
        page = browser.new_page(viewport={"width": width, "height": 800})
        page.goto(report.as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") == width
        if AXE is not None:
            assert browser_kit.violations(page) == []
