"""What each file of tests takes decides the order of a parallel run, and what is left out to save time.

In: tests/durations.json, the seconds of each file and the number of its tests; `--store-durations` writes it.
Out: in a parallel run the longest files come first, so that no process is left with a long one at the end;
     `--fast` runs the files with the fewest seconds per test, as many as take SHARE of all the time together;
     `--within SECONDS` runs those that this machine finishes in that time, and says which it leaves out.

A file that was not measured yet is quick. Only ratios count, so it doesn't matter how busy the machine was.
How slow this one is, the same piece of Python (`probe_s`) says, here and where the file was written.
"""

import json
import statistics
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

FILE = Path(__file__).parents[1] / "durations.json"
SHARE = 0.04
# A parallel run takes as much longer than its share of all seconds, as processes wait for each other: 1.2 on
# an idle machine, 1.4 as CI measured it (1,070 s where 910 were expected at 1.2), and CI must end in time.
IDLE = 1.4

Measured = dict[str, tuple[float, int]]
"""Of each file its seconds, and the number of its tests."""

LEFT_OUT = pytest.StashKey[list[str]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("durations")
    group.addoption(
        "--fast", action="store_true", help="only files whose tests are quick, by tests/durations.json"
    )
    group.addoption(
        "--within",
        type=float,
        metavar="SECONDS",
        help="leave out the files with the most seconds per test, if this machine takes longer for all",
    )
    group.addoption("--store-durations", action="store_true", help="write tests/durations.json at the end")


def pytest_configure(config: pytest.Config) -> None:
    # Chosen once for all processes of a parallel run, which must agree.
    given = getattr(config, "workerinput", None)
    config.stash[LEFT_OUT] = choose_left_out(config) if given is None else given["left_out"]
    if given is None and config.getoption("--store-durations"):
        config.pluginmanager.register(Stopwatch(), "stopwatch")


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """A process of a parallel run is told."""
    node.workerinput["left_out"] = node.config.stash[LEFT_OUT]


def choose_left_out(config: pytest.Config) -> list[str]:
    """The files that `--fast` or `--within` leaves out."""
    kept = json.loads(FILE.read_text(encoding="utf-8"))
    measured, within = kept["files"], config.getoption("--within")
    if config.getoption("--fast"):
        return sorted(slow_files(measured, SHARE * total_s(measured)))
    if within is None:
        return []
    num_processes = min(config.getoption("numprocesses") or 1, config.getoption("maxprocesses") or 8)
    return sorted(slow_files(measured, within * num_processes / IDLE * kept["probe_s"] / probe_s()))


def pytest_report_header(config: pytest.Config) -> str | None:
    if config.getoption("--within") is None:
        return None
    left_out = config.stash[LEFT_OUT]
    return f"left out, to end in time: {', '.join(left_out)}" if left_out else "there is time for all files"


def total_s(measured: Measured) -> float:
    """The seconds of all files together."""
    return sum(seconds for seconds, _ in measured.values())


def probe_s() -> float:
    """The processor seconds of a fixed piece of Python: the median of 21, as other work disturbs some."""
    found = []
    for _ in range(21):
        begun = time.process_time()
        sum(number * number for number in range(500_000))
        found.append(time.process_time() - begun)
    return statistics.median(found)


def slow_files(measured: Measured, left_s: float) -> set[str]:
    """The names of the files to leave out so that the others, those of quick tests, take at most `left_s`."""
    slow = set()
    for name in sorted(measured, key=lambda name: measured[name][0] / measured[name][1]):
        left_s -= measured[name][0]
        if left_s < 0:
            slow.add(name)
    return slow


def longest_first(names: list[str], measured: Measured) -> list[str]:
    """The files in the order in which processes should take them, so that all end at about the same time."""
    return sorted(names, key=lambda name: -measured.get(name, (0.0, 1))[0])


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    left_out = config.stash[LEFT_OUT]
    config.hook.pytest_deselected(items=[item for item in items if item.path.name in left_out])
    items[:] = [item for item in items if item.path.name not in left_out]
    if hasattr(config, "workerinput"):
        measured = json.loads(FILE.read_text(encoding="utf-8"))["files"]
        names = longest_first(list(dict.fromkeys(item.path.name for item in items)), measured)
        places = {name: place for place, name in enumerate(names)}
        items.sort(key=lambda item: places[item.path.name])


class Stopwatch:
    """Adds up what each file takes, and writes it when every test has passed or failed."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self.tests: dict[str, set[str]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        name = Path(report.location[0]).name
        self.seconds[name] += report.duration  # type: ignore[assignment]
        self.tests.setdefault(name, set()).add(report.nodeid)

    def pytest_sessionfinish(self) -> None:
        measured = {name: [round(self.seconds[name], 2), len(tests)] for name, tests in self.tests.items()}
        lines = ",\n".join(f'  "{name}": {measured[name]}' for name in sorted(measured))
        text = f'{{\n"probe_s": {probe_s():.4f},\n"files": {{\n{lines}\n}}\n}}\n'
        FILE.write_text(text, encoding="utf-8")
