"""What tests of lanes hand to them, and how they find the threads."""

import threading
from collections.abc import Sequence

import numpy as np

from service.batching.job import BatchResult, Tensors

AT_MOST_S = 20  # nothing takes long unless it is broken


def rows(*values: float) -> Tensors:
    return {"x": np.array(values, np.float64)}


def doubled(jobs: Sequence[Tensors]) -> BatchResult:
    return BatchResult(answers={"y": np.concatenate([job["x"] for job in jobs]) * 2}, begun=0.0)


def y_of(outcome: BatchResult) -> list[float]:
    return outcome.answers["y"].tolist()


def threads_of(name: str) -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith(f"{name}-")]


def ended(threads: Sequence[threading.Thread]) -> bool:
    for thread in threads:
        thread.join(AT_MOST_S)
    return not any(thread.is_alive() for thread in threads)
