"""Sums of products of uint8 and int8, which x86 without VNNI adds up in 16 bits unless told otherwise.

In: what ONNX Runtime says of a graph.  Out: whether it can be told so.
"""

EXACT_SUMS = "session.x64quantprecision"
"""ONNX Runtime's option for it: int8 weights become uint8."""


def lacks_exact_sums(error: Exception) -> bool:
    """Whether a graph is refused because of the option alone: of some ops no kernel takes uint8 weights."""
    return "Failed to find kernel for com.microsoft.QGemm" in str(error)
