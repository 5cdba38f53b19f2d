"""How many BatchNorms are left in a graph?  A BatchNorm under another name is not gone.

In: the ops of a graph (ONNX, or OpenVINO's IR).  Out: a `Count`; compared with the unfolded graph's, what
is left:

    left = BatchNormalization + more depthwise 1×1 convolutions + more per-channel Mul/Add
           (Mul, Div, Add or Sub by a constant with one size above 1; a Mul and an Add in a row are one)

"more" is beyond the unfolded graph's. An Add right after a MatMul is a linear layer's bias and does not count
(nor one right after OpenVINO's Convolution, which has no bias of its own). Arithmetic on weights alone, which
onnxoptimizer leaves for run time, does not count. Per-channel Max and Min are counted separately.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

Shape = tuple[int, ...]

SCALES, SHIFTS = ("Mul", "Div"), ("Add", "Sub")


@dataclass(frozen=True, kw_only=True)
class Op:
    """One node: the inputs that depend on the graph's inputs, and the shapes of those that do not."""

    kind: str
    data: tuple[str, ...]
    constants: tuple[Shape | None, ...]
    outputs: tuple[str, ...]
    group: int = 1


@dataclass(frozen=True, kw_only=True)
class Count:
    """The ops of a graph that are or may replace BatchNorms, and its number of nodes."""

    batchnorms: int
    stand_ins: int = 0
    affines: int = 0
    bounds: int = 0
    nodes: int = 0

    def left(self, unfolded: "Count") -> int:
        """The number of BatchNorms that remain, under any name."""
        return self.batchnorms + self.more_stand_ins(unfolded) + self.more_affines(unfolded)

    def more_stand_ins(self, unfolded: "Count") -> int:
        """Depthwise 1×1 convolutions beyond the unfolded graph's."""
        return max(0, self.stand_ins - unfolded.stand_ins)

    def more_affines(self, unfolded: "Count") -> int:
        """Per-channel Mul and Add beyond the unfolded graph's."""
        return max(0, self.affines - unfolded.affines)


def count(ops: Sequence[Op], *, biased: Sequence[str] = ("MatMul", "FusedMatMul")) -> Count:
    """Count in the order of computation; an Add right after one of `biased` is its bias."""
    return Count(
        batchnorms=sum(op.kind == "BatchNormalization" for op in ops),
        stand_ins=sum(_is_stand_in(op) for op in ops),
        affines=_count_affines(ops, biased),
        bounds=sum(op.kind in ("Max", "Min") and _is_per_channel(op) for op in ops),
        nodes=len(ops),
    )


def _is_stand_in(op: Op) -> bool:
    if op.kind not in ("Conv", "FusedConv") or not op.constants:
        return False
    weight = op.constants[0]  # or a bias, with one axis, where the weight is computed
    return weight is not None and len(weight) > 2 and op.group > 1 and prod(weight) == weight[0] == op.group


def _is_per_channel(op: Op) -> bool:
    if len(op.data) != 1 or len(op.constants) != 1:
        return False
    shape = op.constants[0]
    return shape is not None and sum(size > 1 for size in shape) == 1


def _count_affines(ops: Sequence[Op], biased: Sequence[str]) -> int:
    producers = {output: op for op in ops for output in op.outputs}
    readers = Counter(value for op in ops for value in op.data)
    single: dict[str, tuple[str, ...]] = {}  # outputs of ops that may still be joined by their other half
    found = 0
    for op in ops:
        half = next((kinds for kinds in (SCALES, SHIFTS) if op.kind in kinds), None)
        if half is None or not _is_per_channel(op):
            continue
        source = op.data[0]
        before = producers.get(source)
        if half is SHIFTS and before is not None and before.kind in biased:
            continue
        if single.pop(source, half) is not half and readers[source] == 1:
            continue
        found += 1
        single[op.outputs[0]] = half
    return found
