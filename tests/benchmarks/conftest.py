"""What the tests of the serving benchmark share: three rows with their answers, and a run's options."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.serving.cores import share_out
from benchmarks.serving.samples import Samples
from benchmarks.serving.steps import Options
from benchmarks.serving.systems import BARE, FORMATS, SYSTEMS
from serving_benchmark_kit import TOLERANCE


@pytest.fixture
def samples() -> Samples:
    rows = np.arange(12, dtype=np.float32).reshape(3, 4)
    return Samples(
        input_name="x",
        rows=rows,
        answers=rows[:, :2].astype(np.float64),
        tolerance=TOLERANCE,
        pictures=[b"one", b"two", b"three"],
        labels=["a", "b", "a"],
        probabilities=[0.9, 0.8, 0.5],
    )


@pytest.fixture
def options(tmp_path: Path) -> Options:
    return Options(
        nets=["digits"],
        systems=[BARE, *SYSTEMS],
        formats=list(FORMATS),
        phases=["closed", "open", "ours"],
        rounds=2,
        scale=1.0,
        memory_requests=1000,
        cores=share_out("shared"),
        models=tmp_path,
        made=tmp_path,
        peers=tmp_path,
        out=tmp_path,
        logs=tmp_path,
        calm=0.5,
    )
