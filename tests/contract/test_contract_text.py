"""The first line of another library's error."""

import pytest

from service.contract.text import MAX_LENGTH, first_line


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("one\ntwo"), "one"),
        (ValueError("\n  two  \nthree"), "two  "),
        (ValueError(""), "ValueError"),
        (KeyError("key"), "'key'"),
        (ValueError("x" * 1000), "x" * MAX_LENGTH),
    ],
)
def test_the_first_line_of_what_an_error_says(error, line):
    assert first_line(error) == line


def test_the_root_of_an_error_says_it():
    wrapper = RuntimeError("the wrapper")
    wrapper.__cause__ = OSError("the root")
    assert first_line(wrapper) == "the root"
