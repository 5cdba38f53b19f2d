"""What the service set out to reach, and what it reached.

In: medians.  Out: a second, short table: bar, wanted, reached.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.serving.medians import Medians, Place, best_bare
from benchmarks.serving.nets import NETS
from benchmarks.serving.store import MEMORY, OVERLOAD, START

Found = dict[Place, Medians]


@dataclass(frozen=True)
class Bar:
    """A figure that should be at least, or at most, what is wanted; None if it was not measured."""

    told: str
    wanted: float
    reached: float | None
    at_most: bool = False

    @property
    def is_reached(self) -> bool | None:
        if self.reached is None:
            return None
        return self.reached <= self.wanted if self.at_most else self.reached >= self.wanted


def bars(found: Found, nets: list[str]) -> list[str]:
    """The lines of the table."""
    lines = ["| bar | wanted | reached | |", "|---|---:|---:|---|"]
    for bar in (*_throughput(found), *(bar for net in nets for bar in _of_net(found, net)), *_memory(found)):
        sign = "≤" if bar.at_most else "≥"
        reached = "not measured" if bar.reached is None else f"{bar.reached:.3g}"
        verdict = {True: "yes", False: "no", None: ""}[bar.is_reached]
        lines.append(f"| {bar.told} | {sign} {bar.wanted:g} | {reached} | {verdict} |")
    return lines


def _throughput(found: Found) -> Iterator[Bar]:
    for net, wanted in (("resnet18", 0.95), ("resnet20", 0.80)):
        best, rate = best_bare(found, net), _rate(found, net, "ours", "binary", "c16")
        told = f"{net}, binary, 16 connections: of the best rows/s of ONNX Runtime alone"
        yield Bar(told, wanted, rate / best[1] if best and rate else None)
    yield Bar("digits, binary, 64 connections: of the echo", 0.55, _ratio(found, "echo"))
    for peer, wanted in (("litserve", 12), ("bentoml", 12), ("mlserver", 12), ("hand", 7), ("triton", 1.5)):
        form = "binary" if ("digits", peer, "binary", "c64") in found or peer != "mlserver" else "json"
        told = f"digits, binary, 64 connections: times {peer}" + ("'s JSON" if form == "json" else "")
        yield Bar(told, wanted, _ratio(found, peer, its_form=form))
    yield Bar("digits, JSON, 64 connections: times hand", 3, _ratio(found, "hand", "json", "json"))


def _of_net(found: Found, net: str) -> Iterator[Bar]:
    lone, half = found.get((net, "ours", "binary", "c1")), found.get((net, "ours", "binary", "o50"))
    told = f"{net}, binary: p99 at 50 % load, times a lone request's p50"
    yield Bar(told, 3, half.p99_ms / lone.p50_ms if lone and half else None, at_most=True)
    over, most = found.get((net, "ours", "binary", OVERLOAD)), _most(found, net)
    limit = 1e3 * NETS[net].deadline_s
    told = f"{net}, binary, twice the maximum: right answers, of the maximum"
    yield Bar(told, 0.9, over.requests_per_s / most if over and most else None)
    told = f"{net}, binary, twice the maximum: p99 of 503, ms"
    yield Bar(told, 50, over.of_extra("refused_p99_ms") if over else None, at_most=True)
    told = f"{net}, binary, twice the maximum: of those not refused, right within their {limit:g} ms"
    yield Bar(told, 0.99, _met(over) if over else None)
    begun = found.get((net, "ours", "-", START))
    told = f"{net}: start to ready, times import onnxruntime and a session"
    yield Bar(told, 2, begun.p50_ms / begun.of_extra("bare_ms") if begun else None, at_most=True)


def _memory(found: Found) -> Iterator[Bar]:
    for (net, _, _, load), it in found.items():
        if load == MEMORY:
            before, after = it.of_extra("before_mb"), it.of_extra("after_mb")
            told = f"{net}: resident memory after the long run, of before ({before:.0f} → {after:.0f} MB)"
            yield Bar(told, 1.02, after / before, at_most=True)


def _ratio(found: Found, peer: str, form: str = "binary", its_form: str = "binary") -> float | None:
    mine, its = _rate(found, "digits", "ours", form, "c64"), _rate(found, "digits", peer, its_form, "c64")
    return mine / its if mine and its else None


def _rate(found: Found, net: str, system: str, form: str, load: str) -> float | None:
    it = found.get((net, system, form, load))
    return it.requests_per_s if it else None


def _met(over: Medians) -> float:
    return over.of_extra("met") / max(1.0, over.of_extra("requests") - over.of_extra("refused"))


def _most(found: Found, net: str) -> float | None:
    rates = [_rate(found, net, "ours", "binary", load) for load in ("c1", "c16", "c64")]
    return max((rate for rate in rates if rate), default=None)
