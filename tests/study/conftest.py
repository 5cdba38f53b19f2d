"""Rows of a data set so small that its nets train in seconds."""

from collections.abc import Iterator

import pytest

from study.rows import Rows, load_rows
from study_kit import NUM_ROWS, use_tiny_data


@pytest.fixture(scope="module")
def tiny_data() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        use_tiny_data(patch)
        yield


@pytest.fixture(scope="module")
def rows(tiny_data: None) -> Rows:
    return load_rows("tiny", NUM_ROWS)
