"""What each file of tests takes decides the order of a parallel run, and what `--fast` leaves out.

In: tests/durations.json, the seconds of each file and the number of its tests; `--store-durations` writes it.
Out: in a parallel run the longest files come first, so that no process is left with a long one at the end;
     `--fast` runs the files with the fewest seconds per test, as many as take SHARE of all the time together.

A file that was not measured yet is quick. Only ratios count, so it doesn't matter how busy the machine was.
"""

import json
from collections import Counter
from pathlib import Path

import pytest

FILE = Path(__file__).parents[1] / "durations.json"
SHARE = 0.04


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("durations")
    group.addoption(
        "--fast", action="store_true", help="only files whose tests are quick, by tests/durations.json"
    )
    group.addoption("--store-durations", action="store_true", help="write tests/durations.json at the end")


def pytest_configure(config: pytest.Config) -> None:
    is_worker = hasattr(config, "workerinput")
    if config.getoption("--store-durations") and not is_worker:
        config.pluginmanager.register(Stopwatch(), "stopwatch")


def slow_files(measured: dict[str, tuple[float, int]]) -> set[str]:
    """The names of the files that `--fast` leaves out; `measured` has the seconds and the number of tests."""
    left = SHARE * sum(seconds for seconds, _ in measured.values())
    slow = set()
    for name in sorted(measured, key=lambda name: measured[name][0] / measured[name][1]):
        left -= measured[name][0]
        if left < 0:
            slow.add(name)
    return slow


def longest_first(names: list[str], measured: dict[str, tuple[float, int]]) -> list[str]:
    """The files in the order in which processes should take them, so that all end at about the same time."""
    return sorted(names, key=lambda name: -measured.get(name, (0.0, 1))[0])


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    measured = json.loads(FILE.read_text(encoding="utf-8"))
    if config.getoption("--fast"):
        slow = slow_files(measured)
        config.hook.pytest_deselected(items=[item for item in items if item.path.name in slow])
        items[:] = [item for item in items if item.path.name not in slow]
    if hasattr(config, "workerinput"):
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
        lines = [f'  "{name}": {measured[name]}' for name in sorted(measured)]
        FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
