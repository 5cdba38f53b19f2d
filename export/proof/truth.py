"""The truth that every proof is measured against: the unfolded net, computed in float64, row by row.

In: what evaluates the unfolded net or graph, and the golden inputs.  Out: the golden answers.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np

from export.compute.reference import Arrays, Evaluate
from export.compute.truth import INDEPENDENT_FLOAT32
from export.errors import ProofError
from service.contract.parity import batches, difference, joined

INDEPENDENT = 1e-8
"""Largest relative difference between a row alone and in a batch, in float64.

float32 noise over a zoo of nets reaches 5e-2 of the output range, that is 2⁻²⁴ made
larger about 10⁶ times; float64's 2⁻⁵³ made larger as much stays near 1e-10.
"""


def true_answers(
    evaluate: Evaluate,
    inputs: Mapping[str, np.ndarray],
    show: Callable[[int], None] = lambda row: None,
    *,
    is_exact: bool = True,
    max_rows: int | None = None,
    max_together: int | None = None,
    num_threads: int = 1,
) -> Arrays:
    """Answers row by row; raises ProofError if a row's answer depends on its neighbours in the batch.

    `show` is a callback, given how many rows are done; `is_exact` says whether `evaluate` computes in
    float64. `num_threads` batches are computed at a time, and have `max_rows` together at most.  Of all rows,
    the first `max_together` are answered in batches as well.
    """
    rows: list[Arrays] = []
    with _in_threads(evaluate, num_threads) as evaluated:
        for answer in evaluated(batches(inputs, 1)):
            rows.append(answer)
            _check_one_row(answer)
            show(len(rows))
    for name in rows[0]:
        if len(shapes := {answer[name].shape[1:] for answer in rows}) > 1:
            raise ProofError(
                f"the size of output '{name}' depends on the rows' own numbers: {sorted(shapes)}"
            )
    answers = joined(rows)
    at_once = min(len(rows), max_rows or len(rows))
    size = min(at_once, max(2, at_once // num_threads))  # two rows at least, which may depend on each other
    with _in_threads(evaluate, num_threads if at_once == 1 else at_once // size) as evaluated:
        number = min(len(rows), max(max_together or len(rows), size))
        some = {name: array[:number] for name, array in inputs.items()}
        together = joined(list(evaluated(batches(some, size))))
    for name in answers:
        limit = (INDEPENDENT if is_exact else INDEPENDENT_FLOAT32) * float(
            np.abs(answers[name]).max(initial=0.0)
        )
        if (apart := difference(together[name], answers[name][:number])) > limit:
            check_repeats(evaluate, inputs, rows[0])
            raise ProofError(
                f"rows are not independent: in one batch, answers of '{name}' differ by {apart:.3g} "
                f"from those of the same rows alone, in {'float64' if is_exact else 'float32'}"
            )
    return answers


@contextmanager
def _in_threads(evaluate: Evaluate, number: int) -> Iterator[Callable[[Iterable[Arrays]], Iterator[Arrays]]]:
    """What maps batches to answers, in their order, `number` at a time; NumPy leaves the interpreter free."""
    if number == 1:
        yield lambda batches: map(evaluate, batches)
        return
    pool = ThreadPoolExecutor(number)
    try:
        yield lambda batches: pool.map(evaluate, batches)
    finally:
        pool.shutdown(cancel_futures=True)


def _check_one_row(answers: Mapping[str, np.ndarray]) -> None:
    """Raise ProofError unless one row is answered by one row of each output."""
    for name, answer in answers.items():
        if answer.ndim == 0 or len(answer) != 1:
            raise ProofError(
                f"output '{name}' answers one row with the shape {list(answer.shape)}: rows must stay the "
                "first axis"
            )


def check_repeats(
    evaluate: Evaluate, inputs: Mapping[str, np.ndarray], first: Mapping[str, np.ndarray] | None = None
) -> None:
    """Raise ProofError if the first row's answer, which was `first` if that is known, is another one now."""
    row = {name: array[:1] for name, array in inputs.items()}
    before, again = evaluate(row) if first is None else first, evaluate(row)
    if any(not np.array_equal(again[name], before[name], equal_nan=True) for name in before):
        raise ProofError("the net answers one row differently from run to run: it draws random numbers")
