"""The protocol's datatypes: their names, sizes and numpy types.

In: a datatype's name or a numpy dtype's.  Out: the other.
"""

import numpy as np

# Every name that a request may use; None: variable size.
SIZES: dict[str, int | None] = {
    "BOOL": 1,
    "UINT8": 1,
    "UINT16": 2,
    "UINT32": 4,
    "UINT64": 8,
    "INT8": 1,
    "INT16": 2,
    "INT32": 4,
    "INT64": 8,
    "FP16": 2,
    "BF16": 2,
    "FP32": 4,
    "FP64": 8,
    "BYTES": None,
}

# Those that a manifest can ask for.
BY_DTYPE = {
    "bool": "BOOL",
    "uint8": "UINT8",
    "int8": "INT8",
    "int16": "INT16",
    "int32": "INT32",
    "int64": "INT64",
    "float16": "FP16",
    "float32": "FP32",
    "float64": "FP64",
}

# In the protocol's byte order, little-endian.
NUMPY = {datatype: np.dtype(dtype).newbyteorder("<") for dtype, datatype in BY_DTYPE.items()}

# array.array's codes: it refuses strings, nulls, fractions for integers and integers out of range by itself.
ARRAY_CODES = {
    "UINT8": "B",
    "INT8": "b",
    "INT16": "h",
    "INT32": "i",
    "INT64": "q",
    "FP32": "f",
    "FP64": "d",
}
