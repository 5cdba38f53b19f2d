"""What a request to one version of a model must look like.

In: the tensors of a manifest.  Out: for each of them the protocol's datatype and the size of a row.

A size that the net leaves open is −1, as the protocol prints it, and has a range.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Literal

from service.contract.manifest import Manifest
from service.contract.sizes import SizeRange
from service.contract.tensors import TensorSpec
from service.protocol.datatypes import BY_DTYPE, SIZES


@dataclass(frozen=True, slots=True)
class OpenSize:
    """An open size of a row: at `axis`, called `name`, one of minimum, minimum + step, … maximum."""

    axis: int
    name: str
    minimum: int
    maximum: int
    step: int

    @property
    def range(self) -> str:
        """The sizes in words."""
        return str(SizeRange(minimum=self.minimum, maximum=self.maximum, step=self.step))


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """One input or output in the protocol's words; `size` are the bytes of a number."""

    name: str
    datatype: str
    row_shape: tuple[int, ...]
    size: int
    open_sizes: tuple[OpenSize, ...] = ()

    @property
    def shape(self) -> list[int]:
        """As metadata and error messages print it: the rows are -1."""
        return [-1, *self.row_shape]

    @property
    def row_elements(self) -> int:
        """How many numbers one row has; at most, where sizes are open."""
        return prod(self.row_shape) if not self.open_sizes else prod(self.extreme("maximum"))

    def extreme(self, which: Literal["minimum", "maximum"]) -> tuple[int, ...]:
        """The smallest or the largest shape of a row."""
        shape = list(self.row_shape)
        for open_size in self.open_sizes:
            shape[open_size.axis] = open_size.minimum if which == "minimum" else open_size.maximum
        return tuple(shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """A model's name, version, inputs, outputs, rows that one request may bring, and classes' labels.

    `size_names` are the names of the inputs' open sizes, in the order in which a row's size lists them.
    """

    name: str
    version: str
    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]
    max_rows: int
    labels: Sequence[str] | None = None
    size_names: tuple[str, ...] = ()

    @property
    def max_elements(self) -> int:
        """How many numbers one request may bring, all inputs together."""
        return self.max_rows * sum(tensor.row_elements for tensor in self.inputs.values())


def signature_of(name: str, version: str, manifest: Manifest, max_rows: int) -> Signature:
    """The signature of a manifest's tensors."""
    return Signature(
        name=name,
        version=version,
        inputs={spec.name: _tensor(spec, manifest) for spec in manifest.inputs},
        outputs={spec.name: _tensor(spec, manifest) for spec in manifest.outputs},
        max_rows=max_rows,
        labels=manifest.labels,
        size_names=tuple(manifest.input_sizes),
    )


def _tensor(spec: TensorSpec, manifest: Manifest) -> Tensor:
    datatype = BY_DTYPE[spec.dtype]
    size = SIZES[datatype]
    assert size is not None
    ranges = manifest.sizes or {}
    return Tensor(
        name=spec.name,
        datatype=datatype,
        row_shape=spec.row_shape,
        size=size,
        open_sizes=tuple(
            OpenSize(axis, name, ranges[name].minimum, ranges[name].maximum, ranges[name].step)
            for axis, name in spec.open_sizes.items()
        ),
    )
