"""Prove that a folded graph answers as the unfolded net does, and derive how closely.

In: both graphs and golden rows.  Out: a `Proof` with a tolerance for each output, or a ProofError.

    e_unfolded = max |ONNX Runtime float32, unfolded − truth|     e_folded likewise
    tolerance  = 4 · e_unfolded + 4 · 2⁻²³ · max |truth|

A fold only rounds its weights anew, so e_folded is about e_unfolded; 4 leaves room for another order of
summation on another device, and 4 ulps of the output range keep a net without rounding errors provable.
Where ONNX Runtime's own rewrites cost the unfolded graph more than that, its error with them counts, up to 4
times e_unfolded: that is as far as another order of summation goes, and a rewrite that is wrong goes further.
A tolerance above a quarter of the output range, or answers that are all zero, prove nothing: refused.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial

import numpy as np

from export.compute.runtime import load
from export.compute.texts import texts_apart
from export.errors import ParityError, ProofError, naming
from export.proof.choices import Choice, flips
from service.contract.bundle import Golden
from service.contract.parity import BUCKETS, Parity, Run, difference, measure
from service.contract.tolerances import FACTOR, Tolerance, derived_tolerance

LARGEST_SHARE = 0.25


@dataclass(frozen=True, kw_only=True)
class Proof:
    """What was measured, for both graphs, and the tolerance that follows.

    Where sizes are open, `by_size` are the proofs at each golden size; the whole then has the largest
    differences of them, and for each output the widest of their tolerances.
    """

    unfolded: Parity
    folded: Parity
    tolerances: dict[str, Tolerance]
    by_size: Sequence["Proof"] = ()

    @property
    def shares(self) -> dict[str, float]:
        """The largest difference of each output, as a share of the tolerance at its size."""
        return {
            name: max(
                proof.folded.worst[name] / (proof.tolerances[name].max_abs or 1.0)
                for proof in self.by_size or (self,)
            )
            for name in self.tolerances
        }


def prove(
    unfolded: bytes,
    folded: bytes,
    golden: Golden,
    noise: Mapping[str, float] | None = None,
    max_rows: int | None = None,
) -> Proof:
    """Replay the golden rows through both graphs.

    `noise` is how far each output is moved by rounding the weights once, where e_unfolded does not show that
    (see `export.compute.truth`): e_unfolded is at least as large.
    `max_rows` is the maximum of a batch, if there is one.

    The unfolded graph runs without ONNX Runtime's optimisations, so that its error is that of the net's own
    arithmetic; the folded one as it will be served.

    Raises:
        ParityError: the folded graph is beyond the tolerance.
        ProofError: the golden rows prove nothing.
    """
    reference, served = load(unfolded, optimised=False), load(folded, optimised=True)
    own = measure(reference, golden, (), max_rows)
    rewritten = cache(partial(load, unfolded, optimised=True))
    return _proof(own, rewritten, served, golden, noise or {}, max_rows)


def prove_sizes(
    unfolded: bytes,
    folded: bytes,
    goldens: Sequence[Golden],
    noises: Sequence[Mapping[str, float]],
    max_rows: Sequence[int | None],
) -> Proof:
    """The same proof at each golden size, with tolerances of its own; raises what `prove` raises.

    A size has few rows, whose largest error is as large as chance makes it. So e_unfolded, as a share of the
    output's range, is the largest of all sizes.  `noises` and `max_rows` are those of each size.
    """
    reference, served = load(unfolded, optimised=False), load(folded, optimised=True)
    references = [
        measure(reference, golden, (), most) for golden, most in zip(goldens, max_rows, strict=True)
    ]
    shares = _error_shares(goldens, references)
    proofs, rewritten = [], cache(partial(load, unfolded, optimised=True))
    for golden, noise, most, own in zip(goldens, noises, max_rows, references, strict=True):
        least = {
            name: max(noise.get(name, 0.0), share * float(np.abs(golden.outputs[name]).max(initial=0.0)))
            for name, share in shares.items()
        }
        with naming(golden.sizes):
            proofs.append(_proof(own, rewritten, served, golden, least, most))
    return Proof(
        unfolded=Parity.over([proof.unfolded for proof in proofs]),
        folded=Parity.over([proof.folded for proof in proofs]),
        tolerances={
            name: max((proof.tolerances[name] for proof in proofs), key=lambda tolerance: tolerance.max_abs)
            for name in proofs[0].tolerances
        },
        by_size=proofs,
    )


def _error_shares(goldens: Sequence[Golden], references: Sequence[Parity]) -> dict[str, float]:
    """The largest error of each output as a share of its range, over all sizes."""
    shares = dict.fromkeys(goldens[0].outputs, 0.0)
    for golden, reference in zip(goldens, references, strict=True):
        for name, error in reference.worst.items():
            output_range = float(np.abs(golden.outputs[name]).max(initial=0.0))
            if output_range and np.isfinite(error):  # else that size is refused by itself
                shares[name] = max(shares[name], error / output_range)
    return shares


def _proof(
    reference: Parity,
    rewritten: Callable[[], Run],
    folded: Run,
    golden: Golden,
    noise: Mapping[str, float],
    max_rows: int | None,
) -> Proof:
    served = measure(folded, golden, BUCKETS, max_rows)
    tolerances = _tolerances(reference.worst, noise, served, golden)
    if served.excess(tolerances):
        other = measure(rewritten(), golden, BUCKETS, max_rows).worst
        least = {
            name: max(noise.get(name, 0.0), min(other[name], FACTOR * reference.worst[name]))
            for name in golden.outputs
        }
        tolerances = _tolerances(reference.worst, least, served, golden)
    _check_range(tolerances)
    if excess := served.excess(tolerances):
        raise ParityError(f"the folded graph is not the net: {excess}; nothing was written")
    return Proof(unfolded=reference, folded=served, tolerances=tolerances)


def _tolerances(
    unfolded: Mapping[str, float], least: Mapping[str, float], served: Parity, golden: Golden
) -> dict[str, Tolerance]:
    """Those of each output; its error in the unfolded graph is `least` at least."""
    return {
        name: derive(
            unfolded_error=max(unfolded[name], least.get(name, 0.0)),
            folded_error=served.worst[name],
            truth=golden.outputs[name],
        )
        for name in golden.outputs
    }


def derive(*, unfolded_error: float, folded_error: float, truth: np.ndarray) -> Tolerance:
    """The tolerance of one output.

    Args:
        unfolded_error: max |unfolded − truth|.
        folded_error: max |folded − truth|.
        truth: the golden answers, float64.

    Raises:
        ProofError: the unfolded graph is so far from the truth that any answer would be within the tolerance.
    """
    output_range = float(np.abs(truth).max(initial=0.0))
    if not np.isfinite([unfolded_error, output_range]).all():
        raise ProofError(
            "the unfolded graph's own answers are not finite or not of the net's shape: where noise is "
            "nothing to compute with, give real rows, --rows FILE.npz, or a net's mask its type, "
            "--input-type mask=bool"
        )
    max_abs = derived_tolerance(unfolded_error=unfolded_error, output_range=output_range)
    if max_abs > LARGEST_SHARE * output_range:
        raise ProofError(
            f"nothing can be proved: the unfolded graph's own float32 error is {unfolded_error:.3g} "
            f"with answers up to {output_range:.3g}, so that anything would pass: where noise is nothing to "
            "compute with, give real rows, --rows FILE.npz"
        )
    return Tolerance(
        max_abs=max_abs,
        unfolded_error=unfolded_error,
        folded_error=folded_error if np.isfinite(folded_error) else float(np.finfo(np.float64).max),
        output_range=output_range,
    )


def _check_range(tolerances: Mapping[str, Tolerance]) -> None:
    if not any(tolerance.output_range for tolerance in tolerances.values()):
        raise ProofError("nothing can be proved: every answer to every row is 0")


def prove_once(
    unfolded: bytes,
    folded: bytes,
    inputs: Mapping[str, np.ndarray],
    truth: Mapping[str, np.ndarray],
    noise: Mapping[str, float],
    chosen: Sequence[Choice] = (),
) -> dict[str, Tolerance]:
    """The same proof for a graph whose batch is fixed: one run of all rows, both without optimisation.

    `chosen` outputs are judged by their scores, which both graphs must put out.
    """
    reference = load(unfolded, optimised=False)(inputs)
    answers = load(folded, optimised=False)(inputs)
    tolerances = compare(reference, answers, truth, noise, chosen)
    if why := disagreement(tolerances, answers, truth, chosen) or texts_apart(reference, answers):
        raise ParityError(f"the folded graph is not the unfolded one: {why}; nothing was written")
    _check_range(tolerances)
    return tolerances


def disagreement(
    tolerances: Mapping[str, Tolerance],
    answers: Mapping[str, np.ndarray],
    truth: Mapping[str, np.ndarray],
    chosen: Sequence[Choice],
) -> str | None:
    """Which output is beyond its tolerance, or chosen otherwise than ties allow; None if there is none."""
    for name, tolerance in tolerances.items():
        if not tolerance.folded_error <= tolerance.max_abs:
            error, limit = tolerance.folded_error, tolerance.max_abs
            return f"output '{name}' differs by {error:.3g}, the tolerance is {limit:.3g}"
    margins = {name: tolerance.max_abs for name, tolerance in tolerances.items()}
    reasons = (flips(choice, answers, truth, margins) for choice in chosen)
    return next((why for why in reasons if why), None)


def compare(
    reference: Mapping[str, np.ndarray],
    answers: Mapping[str, np.ndarray],
    truth: Mapping[str, np.ndarray],
    noise: Mapping[str, float],
    chosen: Sequence[Choice] = (),
) -> dict[str, Tolerance]:
    """The tolerance of every output that both graphs have and that is not chosen, with what was measured."""
    names = {name for name in truth if name in answers} - {choice.output for choice in chosen}
    return {
        name: derive(
            unfolded_error=max(difference(reference[name], truth[name]), noise[name]),
            folded_error=difference(answers[name], truth[name]),
            truth=truth[name],
        )
        for name in truth
        if name in names
    }
