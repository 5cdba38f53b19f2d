"""What the service should reach, and what it reached.

In: medians.  Out: a second, short table: target, wanted, reached.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.serving.medians import Medians, Place, best_bare
from benchmarks.serving.nets import NETS
from benchmarks.serving.store import MEMORY, OVERLOAD, START

Found = dict[Place, Medians]


@dataclass(frozen=True)
class Target:
    """A figure that should be at least (or `at_most`) `wanted`; `reached` is None if not measured."""

    description: str
    wanted: float
    reached: float | None
    at_most: bool = False

    @property
    def is_reached(self) -> bool | None:
        """Whether the target is met; None if it was not measured."""
        if self.reached is None:
            return None
        return self.reached <= self.wanted if self.at_most else self.reached >= self.wanted


def targets(found: Found, nets: list[str]) -> list[str]:
    """The lines of the table, in Markdown."""
    lines = ["| target | wanted | reached | |", "|---|---:|---:|---|"]
    of_nets = (target for net in nets for target in _of_net(found, net))
    for target in (*_throughput(found), *of_nets, *_memory(found)):
        sign = "≤" if target.at_most else "≥"
        reached = "not measured" if target.reached is None else f"{target.reached:.3g}"
        verdict = {True: "yes", False: "no", None: ""}[target.is_reached]
        lines.append(f"| {target.description} | {sign} {target.wanted:g} | {reached} | {verdict} |")
    return lines


def _throughput(found: Found) -> Iterator[Target]:
    for net, wanted in (("resnet18", 0.95), ("resnet20", 0.80)):
        best, rate = best_bare(found, net), _rate(found, net, "ours", "binary", "c16")
        text = f"{net}, binary, 16 connections: ÷ the best rows/s of ONNX Runtime alone"
        yield Target(text, wanted, rate / best[1] if best and rate else None)
    yield Target("digits, binary, 64 connections: ÷ the echo", 0.55, _ratio(found, "echo"))
    for peer, wanted in (("litserve", 12), ("bentoml", 12), ("mlserver", 12), ("hand", 7), ("triton", 1.5)):
        form = "binary" if ("digits", peer, "binary", "c64") in found or peer != "mlserver" else "json"
        text = f"digits, binary, 64 connections: ÷ {peer}" + ("'s JSON" if form == "json" else "")
        yield Target(text, wanted, _ratio(found, peer, its_form=form))
    yield Target("digits, JSON, 64 connections: ÷ hand", 3, _ratio(found, "hand", "json", "json"))


def _of_net(found: Found, net: str) -> Iterator[Target]:
    lone, half = found.get((net, "ours", "binary", "c1")), found.get((net, "ours", "binary", "o50"))
    text = f"{net}, binary: p99 at 50 % load ÷ a lone request's p50"
    yield Target(text, 3, half.p99_ms / lone.p50_ms if lone and half else None, at_most=True)
    over, maximum = found.get((net, "ours", "binary", OVERLOAD)), _maximum(found, net)
    limit = 1e3 * NETS[net].deadline_s
    text = f"{net}, binary, twice the maximum: right answers ÷ the maximum"
    yield Target(text, 0.9, over.requests_per_s / maximum if over and maximum else None)
    text = f"{net}, binary, twice the maximum: p99 of 503, ms"
    yield Target(text, 50, over.of_extra("refused_p99_ms") if over else None, at_most=True)
    text = f"{net}, binary, twice the maximum: right within {limit:g} ms, of those not refused"
    yield Target(text, 0.99, _share_in_time(over) if over else None)
    started = found.get((net, "ours", "-", START))
    text = f"{net}: start to ready ÷ `import onnxruntime` and a session"
    yield Target(text, 2, started.p50_ms / started.of_extra("bare_ms") if started else None, at_most=True)


def _memory(found: Found) -> Iterator[Target]:
    for (net, _, _, load), it in found.items():
        if load == MEMORY:
            before, after = it.of_extra("before_mb"), it.of_extra("after_mb")
            text = f"{net}: resident memory after ÷ before the long run ({before:.0f} → {after:.0f} MB)"
            yield Target(text, 1.02, after / before, at_most=True)


def _ratio(found: Found, peer: str, form: str = "binary", its_form: str = "binary") -> float | None:
    mine, its = _rate(found, "digits", "ours", form, "c64"), _rate(found, "digits", peer, its_form, "c64")
    return mine / its if mine and its else None


def _rate(found: Found, net: str, system: str, form: str, load: str) -> float | None:
    it = found.get((net, system, form, load))
    return it.requests_per_s if it else None


def _share_in_time(over: Medians) -> float:
    return over.of_extra("in_time") / max(1.0, over.of_extra("requests") - over.of_extra("refused"))


def _maximum(found: Found, net: str) -> float | None:
    rates = [_rate(found, net, "ours", "binary", load) for load in ("c1", "c16", "c64")]
    return max((rate for rate in rates if rate), default=None)
