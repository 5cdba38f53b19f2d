"""The bundle's report for people: one HTML file that opens offline.

In: what was folded, what was proved.  Out: report.html.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from export.bundle.drawing import BOX_HEIGHT, BOX_WIDTH, Drawing
from export.bundle.half import HalfWeights
from export.bundle.int8_section import SIDE, Int8Section
from export.bundle.verdict import accuracies, verdict
from export.bundle.weight_ranges import WeightRange
from export.proof.prove import Proof
from service.contract.account import FoldAccount
from service.contract.bundle import Golden
from service.contract.manifest import Provenance
from service.contract.preprocessing import Preprocessing
from service.contract.sizes import SizeRange, described
from service.contract.tensors import TensorSpec

if TYPE_CHECKING:  # they need torch or Pillow, which an ONNX file may do without
    from export.bundle.picture_table import ShownPicture
    from training.batchnorm.report import BatchNormReport

WIDTH, HEIGHT = 640, 220
MAX_POINTS = 1500


@dataclass(frozen=True, kw_only=True)
class Plot:
    """One output's differences over its golden answers, in the picture's pixels."""

    output: str
    points: list[tuple[float, float]]
    top: float
    bottom: float
    low: float
    high: float
    max_abs: float


def render(
    name: str,
    *,
    fold: FoldAccount,
    losses: Sequence[HalfWeights] | None,
    drawings: Sequence[Drawing],
    proof: Proof | str,
    num_rows: int,
    golden: Golden,
    answers: Mapping[str, np.ndarray],
    sizes: Sequence["ShownSize"],
    ranges: Mapping[str, SizeRange],
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    provenance: Provenance,
    batchnorm: "BatchNormReport | None",
    curves: str | None,
    weights: Sequence[WeightRange],
    labels: Sequence[str] | None,
    preprocessing: Preprocessing | None,
    pictures: "Sequence[ShownPicture]",
    int8: Int8Section | None = None,
) -> bytes:
    """Fill the template; `losses` is None in float32.

    `golden` are golden rows, of the size in the middle where sizes are open, and `answers` are the folded
    graph's to them; `num_rows` are those of all sizes, which `sizes` lists.  Instead of a `proof` it may be
    said why there is none, and then there are no golden rows.
    `batchnorm` is what training left in the net, and `curves` shows its epochs as SVG: None where the source
    does not say.
    """
    environment = Environment(
        loader=PackageLoader("export.bundle", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    environment.filters["short"] = lambda value: f"{value:.3g}"
    own = None if isinstance(proof, str) else proof
    if own is not None and own.by_size:
        own = own.by_size[len(own.by_size) // 2]
    plots = [
        plot(output, golden.outputs[output], answers[output], tolerance.max_abs)
        for output, tolerance in ({} if own is None else own.tolerances).items()
    ]
    page = environment.get_template("report.html.jinja").render(
        name=name,
        fold=fold,
        losses=losses,
        drawings=drawings,
        box=(BOX_WIDTH, BOX_HEIGHT),
        proof=None if own is None else proof,
        ways=[] if own is None else _ways(own),
        verdict=verdict(fold, proof, num_rows, len(pictures)),
        accuracies=accuracies(provenance.training),
        labels=labels,
        preprocessing=preprocessing,
        num_rows=num_rows,
        at=described(golden.sizes),
        sizes=sizes,
        ranges=ranges,
        plots=plots,
        inputs=inputs,
        outputs=outputs,
        provenance=provenance,
        batchnorm=batchnorm,
        curves=curves,
        weights=weights,
        pictures=pictures,
        int8=int8,
        int8_side=SIDE,
        width=WIDTH,
        height=HEIGHT,
    )
    return page.encode()


@dataclass(frozen=True, kw_only=True)
class ShownSize:
    """A golden size: its rows, and for each output the largest difference and what is allowed."""

    sizes: str
    num_rows: int
    outputs: list[tuple[str, float, float]]


def shown_sizes(goldens: Sequence[Golden], proof: Proof) -> list[ShownSize]:
    """What was proved at each golden size."""
    return [
        ShownSize(
            sizes=described(golden.sizes),
            num_rows=golden.num_rows,
            outputs=[
                (name, own.folded.worst[name], tolerance.max_abs)
                for name, tolerance in own.tolerances.items()
            ],
        )
        for golden, own in zip(goldens, proof.by_size, strict=True)
    ]


def plot(output: str, expected: np.ndarray, answer: np.ndarray, max_abs: float) -> Plot:
    """Differences (answer − golden) over golden answers, the tolerance as a band."""
    truth, error = expected.reshape(-1), (answer.astype(np.float64) - expected).reshape(-1)
    step = max(1, -(-truth.size // MAX_POINTS))
    truth, error = truth[::step], error[::step]
    low, high = float(truth.min(initial=0)), float(truth.max(initial=0))
    span = (high - low) or 1.0
    limit = 1.25 * max(max_abs, float(np.abs(error).max(initial=0.0)), 1e-300)
    xs = (truth - low) / span * WIDTH
    ys = HEIGHT / 2 - error / limit * HEIGHT / 2
    return Plot(
        output=output,
        points=[(round(float(x), 1), round(float(y), 1)) for x, y in zip(xs, ys, strict=True)],
        top=HEIGHT / 2 * (1 - max_abs / limit),
        bottom=HEIGHT / 2 * (1 + max_abs / limit),
        low=low,
        high=high,
        max_abs=max_abs,
    )


def _ways(proof: Proof) -> list[dict[str, Any]]:
    parity = proof.folded
    ways = {"one by one": parity.one_by_one, "all together": parity.all_together}
    ways |= {f"bucket of {size}": differences for size, differences in parity.buckets.items()}
    return [
        {
            "output": output,
            "way": way,
            "difference": differences[output],
            "share": 100 * differences[output] / (proof.tolerances[output].max_abs or 1.0),
        }
        for output in proof.tolerances
        for way, differences in ways.items()
    ]
