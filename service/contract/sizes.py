"""Open sizes: what a size that a net leaves open may be, and how many rows of a size one batch may have.

In: a range, the bytes of a row.  Out: whether a size is one of it; the maximum of a batch.

    sizes of a range = minimum, minimum + step, … maximum
    rows of a batch  = as many as hold BATCH_BYTES of input, at least one
"""

from collections.abc import Mapping
from typing import Annotated, Self

from pydantic import Field, model_validator

from service.contract.strict import Strict

BATCH_BYTES = 16 << 20  # what a net makes of its input on the way is a multiple of that

Sizes = Mapping[str, int]
"""A number for each open size, by its name."""


class SizeRange(Strict):
    """The sizes minimum, minimum + step, … maximum; raises ValueError where there are none."""

    minimum: Annotated[int, Field(ge=1)]
    maximum: Annotated[int, Field(ge=1, lt=1 << 31)]
    step: Annotated[int, Field(ge=1)] = 1

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        if self.minimum > self.maximum:
            raise ValueError(f"the range {self.minimum} to {self.maximum} is empty")
        if (self.maximum - self.minimum) % self.step:
            raise ValueError(
                f"steps of {self.step} from {self.minimum} do not reach {self.maximum}: the last size is "
                f"{self.maximum - (self.maximum - self.minimum) % self.step}"
            )
        return self

    def holds(self, size: int) -> bool:
        """Whether `size` is one of these."""
        return self.minimum <= size <= self.maximum and (size - self.minimum) % self.step == 0

    def __str__(self) -> str:
        steps = "" if self.step == 1 else f" in steps of {self.step}"
        return f"{self.minimum} to {self.maximum}{steps}"


def max_rows_of(row_bytes: int, max_rows: int | None) -> int:
    """The maximum of a batch whose rows have so many bytes; `max_rows` is the net's own, if it has one."""
    fitting = max(1, BATCH_BYTES // max(row_bytes, 1))
    return fitting if max_rows is None else min(fitting, max_rows)


def described(sizes: Sizes) -> str:
    """`W=320, H=48`, or nothing where no size is open."""
    return ", ".join(f"{name}={size}" for name, size in sizes.items())
