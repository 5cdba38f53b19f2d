"""JSON requests that a property test draws: mostly plain, often odd in one place, now and then broken.

Out: `requests()`, which draws a body and the datatype of the model that it is sent to.
"""

import json
from typing import Any

from hypothesis import strategies as st

DATATYPES = {
    **{"BOOL": 1, "UINT8": 1, "INT8": 1, "INT16": 2, "INT32": 4},
    **{"INT64": 8, "FP16": 2, "FP32": 4, "FP64": 8},
}
EDGES = [0, 1, -1, 127, 128, 255, 256, -128, -129, 2**15, -(2**15) - 1, 2**31 - 1, 2**31, -(2**31), 2**53 + 1]
EDGES += [2**63 - 1, 2**63, -(2**63), -(2**63) - 1, 2**64 - 1, 2**64, 10**30, -(10**30)]
WORDS = [
    "-0",
    "-0.0",
    "0.0",
    "1.0",
    "1.5",
    "1e2",
    "1E+2",
    "1e-400",
    "1e400",
    "-1e400",
    "3.4028235e38",
    "3.5e38",
    "3.4028235677973366e38",
    "1e39",
    "5e-324",
    "1.7976931348623157e308",
    "0.1",
    "16777217",
    "1e-45",
    "7e-46",
    "9007199254740993",
    "9223372036854775808.0",
    "1e18",
    "1e19",
    "true",
    "false",
    "null",
    '"1"',
    '""',
    "[]",
    "{}",
    "[1]",
    "[1,2]",
    "01",
    "+1",
    ".5",
    "1.",
    "NaN",
    "Infinity",
    "0x1",
    "1e",
    "--",
    "1_0",
    "123456789012345678901234567890.5",
]
_PARAMETERS = [
    "timeout",
    "priority",
    "binary_data_output",
    "binary_data",
    "classification",
    "triton_x",
    "other",
    "binary_data_size",
    "sequence_id",
    "[",
    "shared_memory_region",
]
_SHAPES = [
    "[2,2]",
    "[2,2]",
    "[2,2]",
    "[1,2]",
    "[0,2]",
    "[3,2]",
    "[2,2.0]",
    "[true,2]",
    "[-1,2]",
    "4",
    "[[2],2]",
    "[4]",
    "[18446744073709551616,2]",
    "[4611686018427387904,2]",
]
_STRINGS = [
    r'"\ud800"',
    r'"\udc00\ud800"',
    r'"\u0000"',
    '"[{"',
    '"]"',
    r'"\x"',
    '"\n"',
    r'"\/"',
    '"x"',
    '"y"',
]
_ENDS = ["", "", "", " ", "\n", "x", "{}", "\x00", ","]
_BYTES = [b"", b"\xff", b"\xed\xa0\x80", b"\x00", b"\xef\xbb\xbf"]

numbers = st.one_of(
    st.integers(-300, 300).map(str),
    st.sampled_from(EDGES).map(str),
    st.integers().map(str),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.floats(allow_nan=False, allow_infinity=False, width=32).map(repr),
)
elements = st.one_of(numbers, numbers, numbers, st.sampled_from(WORDS))
gaps = st.sampled_from(["", "", "", " ", "\n", "\t", "\r\n", "  ", "\x0b", "\u00a0"])
strings = st.one_of(
    st.text(max_size=5).map(json.dumps),
    st.text(max_size=5).map(lambda text: json.dumps(text, ensure_ascii=False)),
    st.sampled_from(_STRINGS),
)
scalars = st.one_of(strings, elements, st.sampled_from(["1", "1000000", "true", "null"]))
names = st.sampled_from(["x", "x", "x", "y", "X", "", r"\u0078", r"x\u0000"]).map(lambda name: f'"{name}"')
parameters = st.one_of(
    scalars,
    st.lists(st.tuples(st.sampled_from(_PARAMETERS), scalars), max_size=3).map(
        lambda pairs: "{" + ",".join(f"{json.dumps(name)}:{value}" for name, value in pairs) + "}"
    ),
)


@st.composite
def datas(draw: st.DrawFn) -> str:
    """Mostly four flat numbers."""
    gap = draw(gaps)
    four = st.lists(numbers, min_size=4, max_size=4)
    flat = draw(st.one_of(four, four, st.lists(numbers, max_size=6), st.lists(elements, max_size=6)))
    if draw(st.integers(0, 4)) == 0:
        flat = [f"[{flat[at]}{gap},{flat[at + 1]}]" for at in range(0, len(flat) - 1, 2)]
    return f"[{gap}" + f"{gap},".join(flat) + f"{gap}]"


@st.composite
def members(draw: st.DrawFn, usual: dict[str, Any], unusual: list[tuple[str, Any]]) -> str:
    """An object of mostly the usual members: now and then one is missing, doubled, odd, or out of order."""
    gap = draw(gaps)
    pairs = [(name, draw(value)) for name, value in usual.items() if draw(st.integers(0, 19)) > 0]
    pairs += [(name, draw(value)) for name, value in unusual if draw(st.integers(0, 9)) == 0]
    if pairs and draw(st.integers(0, 14)) == 0:
        name = draw(st.sampled_from(pairs))[0]
        pairs.append((name, draw(dict([*usual.items(), *unusual])[name])))
    pairs = draw(st.permutations(pairs))
    inside = f"{gap},{gap}".join(f"{json.dumps(name)}{gap}:{gap}{value}" for name, value in pairs)
    return "{" + gap + inside + "}"


def lists_of(entry: Any, most: int) -> Any:
    """Arrays."""
    return st.lists(entry, max_size=most).map(lambda entries: f"[{','.join(entries)}]")


@st.composite
def requests(draw: st.DrawFn) -> tuple[bytes, str]:
    """A body, and the datatype of the model."""
    datatype = draw(st.sampled_from(sorted(DATATYPES)))
    says = st.sampled_from([datatype] * 9 + ["FP32", "INT64", "BYTES", "FPx", ""]).map(json.dumps)
    usual = {"name": names, "datatype": says, "shape": st.sampled_from(_SHAPES), "data": datas()}
    entry = members(usual, [("parameters", parameters), ("unknown", scalars), ("ünï", scalars)])
    output = members({"name": strings}, [("parameters", parameters), ("unknown", scalars)])
    outside = [("id", scalars), ("parameters", parameters), ("outputs", lists_of(output, 2))]
    outside += [("outputs", scalars), ("inputs", scalars), ("unknown", scalars)]
    outside += [("deep", st.just('{"a":[{"b":[]}]}'))]
    # One input in most requests, so that the quick way is taken.
    one = entry.map(lambda text: f"[{text}]")
    text = draw(members({"inputs": st.one_of(one, one, lists_of(entry, 2))}, outside))
    text = draw(st.sampled_from(["", "", "", " ", "\n"])) + text + draw(st.sampled_from(_ENDS))
    body = text.encode("utf-8", "surrogatepass")
    if draw(st.integers(0, 29)) == 0:
        cut = draw(st.integers(0, len(body)))
        body = body[:cut] + draw(st.sampled_from(_BYTES)) + body[cut + 1 :]
    return body, datatype
