"""Sequences of parts, which constant folding writes as a Split: in the file's own opset."""

import numpy as np
import pytest

from file_kit import assert_all_fold, model, node, norm, norm_arrays, weights

ARRAYS = {"w": weights(4, 3, 3, 3), "first": np.array(0), "last": np.array(1), **norm_arrays(4)}


@pytest.mark.parametrize("opset", [11, 12, 13, 17, 18, 21])
@pytest.mark.parametrize(
    "sizes", [np.array(2), np.array(3), np.array([1, 3])], ids=["even", "rest", "stated"]
)
def test_parts_are_split_as_the_opset_has_it(tmp_path, opset, sizes):
    nodes = [
        *[node("Conv", "x w", "h"), norm("h", "n"), node("SplitToSequence", "n sizes", "q", axis=1)],
        *[node("SequenceAt", "q first", "a"), node("SequenceAt", "q last", "b")],
        node("Concat", "b a", "y", axis=1),
    ]
    proto = model(nodes, {**ARRAYS, "sizes": np.array(sizes)}, {"x": ["N", 3, 8, 8]}, opset=opset)
    assert_all_fold(proto, tmp_path, ["Conv", "Split", "Concat"])


@pytest.mark.parametrize("opset", [12, 17])
def test_parts_of_one_without_their_axis(tmp_path, opset):
    nodes = [
        *[node("Conv", "x w", "h"), norm("h", "n")],
        node("SplitToSequence", "n last", "q", axis=1, keepdims=0),
        *[node("SequenceAt", "q first", "a"), node("SequenceAt", "q last", "b"), node("Sub", "a b", "y")],
    ]
    assert_all_fold(model(nodes, ARRAYS, {"x": ["N", 3, 8, 8]}, opset=opset), tmp_path)
