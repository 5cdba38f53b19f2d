"""GridSample for ONNX's reference implementation, whose own loop over every number takes 5 s a row.

    place = (g + 1) / 2 · (size − 1)  with align_corners, else  ((g + 1) · size − 1) / 2
    outside of the picture    0, the nearest pixel (border), or the picture mirrored at its edge (reflection)

g is (x, y) in −1 … 1 (Jaderberg et al. 2015, arXiv:1506.02025).  Older opsets say `bilinear` for `linear`.
"""

import numpy as np
from onnx.reference.ops.op_grid_sample import GridSample as NumpyGridSample

from export.compute.operators.places import interpolated

PICTURE_RANK = 4


class GridSample(NumpyGridSample):
    """ONNX operator GridSample on (N, C, H, W), linear or to the nearest; the rare is ONNX's own."""

    def _run(
        self,
        x: np.ndarray,
        grid: np.ndarray,
        mode: str | None = None,
        padding_mode: str | None = None,
        align_corners: int | None = None,
    ) -> tuple[np.ndarray, ...]:
        mode, padding = (
            {"bilinear": "linear", "bicubic": "cubic"}.get(mode or "", mode),
            padding_mode or "zeros",
        )
        if mode == "cubic" and padding == "border":
            raise ValueError(
                "a cubic GridSample with padding_mode border, which ONNX Runtime reads otherwise"
            )
        is_rare = mode == "cubic" or (mode == "nearest" and padding == "reflection")
        if x.ndim != PICTURE_RANK or is_rare or 0 in (*x.shape, *grid.shape):
            answers: tuple[np.ndarray, ...] = super()._run(x, grid, mode, padding_mode, align_corners)  # type: ignore[no-untyped-call]
            return answers
        places = []
        for axis, size in ((1, x.shape[2]), (0, x.shape[3])):
            g = grid[..., axis]
            place = (g + 1) / 2 * (size - 1) if align_corners else ((g + 1) * size - 1) / 2
            place = np.rint(place) if mode == "nearest" else place
            places.append(_within(place, size, padding, bool(align_corners))[:, None, None, None])
        answer = interpolated(x[:, None], places[0], places[1])
        return (answer.reshape(*x.shape[:2], *grid.shape[1:3]).astype(x.dtype),)


def _within(place: np.ndarray, size: int, padding: str, align_corners: bool) -> np.ndarray:
    """Places outside of 0 … size − 1 brought inside, but for zeros.

    A picture is mirrored at the middle of its last pixels with `align_corners`, and else at their outer edge.
    """
    if padding == "zeros":
        return place
    if padding == "reflection":
        edge = 0.0 if align_corners else 0.5
        length = size - 1 + 2 * edge
        beyond = np.mod(place + edge, 2 * length) if length else np.zeros_like(place)
        place = np.minimum(beyond, 2 * length - beyond) - edge
    return np.asarray(np.clip(place, 0, size - 1))
