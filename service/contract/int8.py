"""What a manifest says of the int8 graph that a bundle may hold beside its float32 one.

In: the block `int8` of a manifest of version 4.  Out: an `Int8`, whose numbers follow from each other.

    int8.onnx     the folded graph with QuantizeLinear and DequantizeLinear, by ONNX Runtime's quantize_static
    int8.npz      its own answers to the golden rows, arrays `output.<name>`, rows first

`model.onnx` stays what the bundle is proved by.  The int8 graph is another function, near to it: how near is
`sqnr_db`, `agreement` and `accuracy`.  What a replay proves is that a device computes this function as the
exporting one did; its tolerance has nothing to do with how near the function is to float32.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from service.contract.strict import Count, Finite, Name, Positive, Strict
from service.contract.tolerances import Int8Tolerance

INT8_GRAPH_FILE = "int8.onnx"
INT8_GOLDEN_FILE = "int8.npz"

RangeSource = Literal["batchnorm", "rows", "golden rows", "made rows", "declared"]


class Int8Layer(Strict):
    """One op of the folded graph: in int8, or in float for a `reason`.

    Args:
        sqnr_db: of its output in int8.onnx against model.onnx, over the golden rows; None if not measured.
        low, high: the range of its output that int8 can hold; None if that stays float.
        range_source: where the range came from.
    """

    name: Name
    op_type: Name
    status: Literal["int8", "float"]
    reason: str | None = None
    sqnr_db: Finite | None = None
    low: Finite | None = None
    high: Finite | None = None
    range_source: RangeSource | None = None

    @model_validator(mode="after")
    def _says_why(self) -> Self:
        if (self.reason is not None) != (self.status == "float"):
            raise ValueError(f"what stays float says its reason, and nothing else does; got {self.status}")
        if len({value is None for value in (self.low, self.high, self.range_source)}) != 1:
            raise ValueError("low, high and range_source go together")
        return self


class Int8Ranges(Strict):
    """How the ranges were found: from BatchNorm statistics, or from `rows` rows.

    `sqnr_db_of` is what each method that was tried reached on rows that it was not fitted to.
    """

    source: Literal["batchnorm", "rows"]
    method: Literal["6 sigma", "minmax", "least squared error"]
    is_bias_corrected: bool
    rows: Count
    sqnr_db_of: dict[str, Finite] = Field(default_factory=dict)


class Int8Agreement(Strict):
    """How many of `rows` rows get the same label in int8 as in float32."""

    rows: Annotated[int, Field(ge=1)]
    same: Count

    @model_validator(mode="after")
    def _is_a_part(self) -> Self:
        if self.same > self.rows:
            raise ValueError(f"same must be at most rows, {self.rows}, got {self.same}")
        return self

    @property
    def share(self) -> float:
        """same / rows."""
        return self.same / self.rows


class Int8Accuracy(Strict):
    """Right answers on labelled rows, paired: of each row it is known whether both, one or none is right."""

    rows: Annotated[int, Field(ge=1)]
    both: Count
    only_float32: Count
    only_int8: Count

    @model_validator(mode="after")
    def _adds_up(self) -> Self:
        if (right := self.both + self.only_float32 + self.only_int8) > self.rows:
            raise ValueError(f"both, only_float32 and only_int8 are {right}, rows are {self.rows}")
        return self

    @property
    def float32(self) -> float:
        """The share that float32 gets right."""
        return (self.both + self.only_float32) / self.rows

    @property
    def int8(self) -> float:
        """The share that int8 gets right."""
        return (self.both + self.only_int8) / self.rows

    @property
    def drop(self) -> float:
        """What int8 loses, in percentage points; negative if it gains."""
        return 100 * (self.only_float32 - self.only_int8) / self.rows


class Int8Speed(Strict):
    """Medians of one batch on the exporting machine, one thread, both graphs in turn."""

    batch: Annotated[int, Field(ge=1)]
    float32_ms: Positive
    int8_ms: Positive

    @property
    def ratio(self) -> float:
        """How many times as fast as float32."""
        return self.float32_ms / self.int8_ms


class Int8(Strict):
    """The block `int8` of a manifest.

    Args:
        tolerances: of the replay, for each output.
        sqnr_db: of each output against float32's, over the rows of `sqnr_rows`, made or real.
        agreement: None where no output has classes.
        accuracy: None where the source has no labelled rows.
        cpu: the exporting machine's, in words.
        reduced_range: weights have 7 bits, so that pairs of products cannot saturate without VNNI.
    """

    tolerances: dict[str, Int8Tolerance]
    sqnr_db: dict[str, Finite]
    sqnr_rows: Annotated[int, Field(ge=1)]
    agreement: Int8Agreement | None
    accuracy: Int8Accuracy | None
    ranges: Int8Ranges
    speed: Annotated[list[Int8Speed], Field(min_length=1)]
    cpu: str
    reduced_range: bool = False
    layers: list[Int8Layer]
