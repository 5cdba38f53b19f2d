"""What a request to one version of a model must look like.

In: the tensors of a manifest.  Out: for each of them the protocol's datatype and the size of a row.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from service.contract.manifest import Manifest, TensorSpec
from service.protocol.datatypes import BY_DTYPE, SIZES


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """One input or output in the protocol's words."""

    name: str
    datatype: str
    row_shape: tuple[int, ...]
    size: int

    @property
    def shape(self) -> list[int]:
        """As metadata and error messages print it: the rows are -1."""
        return [-1, *self.row_shape]

    @property
    def row_elements(self) -> int:
        """How many numbers one row has."""
        return prod(self.row_shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """A model's name, version, inputs, outputs, rows that one request may bring, and classes' labels."""

    name: str
    version: str
    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]
    max_rows: int
    labels: Sequence[str] | None = None

    @property
    def max_elements(self) -> int:
        """How many numbers one request may bring, all inputs together."""
        return self.max_rows * sum(tensor.row_elements for tensor in self.inputs.values())


def signature_of(name: str, version: str, manifest: Manifest, max_rows: int) -> Signature:
    """The signature of a manifest's tensors."""
    return Signature(
        name=name,
        version=version,
        inputs={spec.name: _tensor(spec) for spec in manifest.inputs},
        outputs={spec.name: _tensor(spec) for spec in manifest.outputs},
        max_rows=max_rows,
        labels=manifest.labels,
    )


def _tensor(spec: TensorSpec) -> Tensor:
    datatype = BY_DTYPE[spec.dtype]
    size = SIZES[datatype]
    assert size is not None
    return Tensor(name=spec.name, datatype=datatype, row_shape=spec.row_shape, size=size)
