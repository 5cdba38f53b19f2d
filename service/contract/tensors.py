"""What a manifest says of one input or output: its name, its type, its shape.

In: a tensor's entry.  Out: a `TensorSpec`, whose row shape and open sizes are asked by everyone.
"""

from collections.abc import Sequence
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from service.contract.sizes import Sizes
from service.contract.strict import Name, Strict


class TensorSpec(Strict):
    """One input or output of the graph.

    `shape` starts with None, the symbolic number of rows; a name in it is an open size.
    """

    name: Name
    dtype: Literal["float32", "float16", "float64", "uint8", "int8", "int16", "int32", "int64", "bool"]
    shape: list[Annotated[int, Field(ge=0)] | Name | None]
    minimum: float | None = None
    maximum: float | None = None
    layout: str | None = None

    @model_validator(mode="after")
    def _rows_come_first(self) -> Self:
        if not self.shape or self.shape[0] is not None or None in self.shape[1:]:
            raise ValueError(f"shape must be [null, size, ...], rows first, got {self.shape}")
        return self

    @property
    def row_shape(self) -> tuple[int, ...]:
        """Shape of one row, without the rows' dimension; −1 where a size is open."""
        return tuple(dim if isinstance(dim, int) else -1 for dim in self.shape[1:])

    @property
    def open_sizes(self) -> dict[int, str]:
        """The names of open sizes by their axes in a row."""
        return {axis: dim for axis, dim in enumerate(self.shape[1:]) if isinstance(dim, str)}

    def at(self, sizes: Sizes) -> "TensorSpec":
        """This tensor with numbers for its open sizes."""
        shape = [sizes.get(dim, dim) if isinstance(dim, str) else dim for dim in self.shape]
        return self.model_copy(update={"shape": shape})

    def sizes_of(self, row_shape: Sequence[int]) -> dict[str, int] | None:
        """The open sizes of a row of this shape; None if it is no row of this tensor, whatever the ranges."""
        own = self.shape[1:]
        sizes: dict[str, int] = {}
        if len(row_shape) != len(own):
            return None
        for dim, found in zip(own, row_shape, strict=True):
            if dim != found and (isinstance(dim, int) or sizes.setdefault(str(dim), found) != found):
                return None
        return sizes
