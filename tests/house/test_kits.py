"""How tests are run is tested too: turns in a parallel run, and which files are left out to save time."""

import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from durations import SHARE, longest_first, slow_files, total_s
from turns import turn

PATIENCE_S = 30


@pytest.fixture(autouse=True)
def _own_locks(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


def test_tests_run_together():
    meeting = threading.Barrier(2)

    def one() -> None:
        with turn("run", alone=False):
            meeting.wait(PATIENCE_S)  # opens only where two hold their turn at once

    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(one), pool.submit(one)]:
            done.result(PATIENCE_S)


def test_nothing_runs_beside_one_that_is_alone():
    lock, running, seen = threading.Lock(), [0], []

    def one(alone: bool) -> None:
        with turn("run", alone=alone):
            with lock:
                running[0] += 1
            time.sleep(0.001)  # time for others, if they were let in
            if alone:
                seen.append(running[0])
            with lock:
                running[0] -= 1

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(one, number % 3 == 0) for number in range(30)]:
            done.result(PATIENCE_S)
    assert seen == [1] * 10


def test_one_that_is_alone_waits_for_those_before_it():
    order: list[str] = []
    held, may_end = threading.Event(), threading.Event()

    def first() -> None:
        with turn("run", alone=False):
            held.set()
            assert may_end.wait(PATIENCE_S)
            order.append("first")

    def alone() -> None:
        with turn("run", alone=True):
            order.append("alone")

    with ThreadPoolExecutor(2) as pool:
        done = [pool.submit(first)]
        assert held.wait(PATIENCE_S)
        done.append(pool.submit(alone))
        may_end.set()
        for each in done:
            each.result(PATIENCE_S)
    assert order == ["first", "alone"]


def test_the_quickest_files_are_kept_and_new_ones():
    measured = {"quick.py": (2.0, 50), "slow.py": (60.0, 2), "rest.py": (38.0, 1)}
    assert slow_files(measured, SHARE * total_s(measured)) == {"slow.py", "rest.py"}
    assert slow_files(measured, 63) == {"rest.py"}
    assert slow_files(measured, 100) == set()
    assert slow_files({"one.py": (1.0, 1)}, SHARE) == {"one.py"}


def run_these(*flags: str) -> str:
    command = [sys.executable, "-m", "pytest", "-k", "quickest", *flags, __file__]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def test_a_run_that_has_time_runs_all_in_several_processes_too() -> None:
    output = run_these("--within", "1e6", "-n", "1")
    assert "there is time for all files" in output
    assert "1 passed" in output


def test_a_run_that_must_end_in_time_says_what_it_leaves_out() -> None:
    output = run_these("--within", "0")
    assert "test_kits.py" in output.partition("left out, to end in time: ")[2].partition("\n")[0]
    assert "passed" not in output


def test_long_files_come_first_and_new_ones_last():
    names = longest_first(["new.py", "b.py", "a.py"], {"a.py": (9.0, 1), "b.py": (1.0, 9)})
    assert names == ["a.py", "b.py", "new.py"]
