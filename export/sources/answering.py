"""A net as a function from arrays to arrays, in float64 or as it is.

In: a net.  Out: what computes its answers to rows; the net itself stays as it is.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import nn

from export.compute.reference import Arrays, Evaluate
from export.errors import ProofError, TraceError
from export.graph.rows_first import Arrangement
from export.sources.net_inputs import NetInputs, of_row
from export.sources.wide import in_float32, in_float64
from service.contract.text import first_line


def net_evaluator(
    net: nn.Module,
    output_names: list[str],
    taken: NetInputs | None = None,
    arrangement: Arrangement | None = None,
    *,
    is_wide: bool = True,
    ranks: Sequence[int] | None = None,
) -> Evaluate:
    """A function that runs the net and leaves it as it is; raises ProofError.

    In float64, or in the types that the net has; its answers are float64 in both cases.  `ranks` are those of
    its answers to several rows.
    """
    taken, arrangement = taken or of_row(()), arrangement or Arrangement()
    axes = [arrangement.outputs.get(name) for name in output_names]
    run = in_float64(net, taken) if is_wide else in_float32(net, taken)

    def evaluate(inputs: Mapping[str, np.ndarray]) -> Arrays:
        names = taken.names if len(taken.names) > 1 else inputs
        rows = [torch.from_numpy(inputs[name]) for name in names]
        if is_wide:
            rows = [one.double() if one.is_floating_point() else one for one in rows]
        try:
            tensors = _as_of_several(run, rows, ranks, axes)
        except TraceError:
            raise
        except Exception as error:  # the user's own forward
            why = first_line(error)
            if "index out of range" in why:
                why += "; where an input chooses rows of a table, say so: --input-type NAME=int64, or --rows"
            raise ProofError(f"the net does not run on golden rows, in float64: {why}") from error
        answers = {
            name: tensor.detach().double().numpy() for name, tensor in zip(output_names, tensors, strict=True)
        }
        return arrangement.from_file(answers)

    return evaluate


def _as_of_several(
    run: Callable[[Sequence[torch.Tensor]], list[torch.Tensor]],
    rows: Sequence[torch.Tensor],
    ranks: Sequence[int] | None,
    axes: Sequence[int | None],
) -> list[torch.Tensor]:
    """What `run` answers; to a single row as to one of two, where it takes its axis away or fails.

    After `pool(x).squeeze()` one row is none.  `axes` are those of the rows in the answers.
    """
    may_repeat = ranks is not None and len(rows[0]) == 1
    try:
        answers = run(rows)
        if not may_repeat or [answer.dim() for answer in answers] == ranks:
            return answers
    except Exception:
        if not may_repeat:
            raise
    pairs = run([torch.cat([row, row]) for row in rows])
    return [pair.narrow(axis or 0, 0, 1) for pair, axis in zip(pairs, axes, strict=True)]
