"""Which signal scales replicas before deadlines are missed?  A simulation: half a minute, no server.

In: how one replica batches, how its load rises, and the rules of a HorizontalPodAutoscaler.  Out: a table.

    python -m benchmarks.scaling_signal

    batch of n rows    takes A + B · n seconds, n = what waits, at most LARGEST
    queue signal       rate(foldserve_queue_seconds_sum[30s]): requests that wait on average (Little's law)
    busy signal        the share of time in which a lane computes, as the processor's load shows it
    wanted replicas    ⌈sum of the signal / target⌉, each 15 s; a new one answers START_S later

A request that is answered after its deadline is missed.  Requests go to the replica with the fewest open.
"""

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from benchmarks.common import new_parser

A, B, LARGEST = 0.004, 0.002, 64  # seconds of a batch; 64 rows: 485 a second
DEADLINE_S = 1.0
PERIOD_S, WINDOW_S, KEEP_S = 15.0, 30.0, 300.0  # Kubernetes' defaults, and the signal's window
START_S = 20.0  # from the decision to the first answer, where the image is there already
MAX_REPLICAS = 20  # as in deploy/kubernetes
CAPACITY = LARGEST / (A + B * LARGEST)

Load = Callable[[float], float]
"""Requests a second at each time."""


@dataclass
class Replica:
    """One replica: what waits, until when its lane computes, and what it has counted so far."""

    waiting: list[float] = field(default_factory=list)
    running: int = 0
    free_at: float = 0.0
    queue_s: float = 0.0
    busy_s: float = 0.0


@dataclass
class Outcome:
    """What a run came to; `first_miss_s` and `first_scaled_s` are times, or infinity."""

    requests: int = 0
    missed: int = 0
    first_miss_s: float = math.inf
    first_scaled_s: float = math.inf
    replica_s: float = 0.0
    most: int = 0


def simulate(load: Load, seconds: float, signal: str | None, target: float, first: int = 2) -> Outcome:
    """One run over `seconds`; `signal` is "queue", "busy" or None for a fixed number of replicas."""
    chance = np.random.default_rng(0)
    replicas = [Replica() for _ in range(first)]
    starting: list[float] = []
    history: list[tuple[float, float]] = [(0.0, 0.0)]  # times and the counter's sum
    wanted_before: list[tuple[float, int]] = []
    gone = 0.0  # what removed replicas had counted
    outcome = Outcome(most=first)
    now, decide_at = 0.0, PERIOD_S
    while now < seconds:
        arrives = now + chance.exponential(1 / max(load(now), 1e-9))
        while decide_at <= arrives:
            now = decide_at
            _advance(replicas, now, outcome)
            starting, ready = [at for at in starting if at > now], [at for at in starting if at <= now]
            replicas += [Replica(free_at=at) for at in ready]
            outcome.most = max(outcome.most, len(replicas))
            count = len(replicas) + len(starting)
            outcome.replica_s += count * PERIOD_S
            counted = gone + sum(one.queue_s if signal == "queue" else one.busy_s for one in replicas)
            history.append((now, counted))
            decide_at += PERIOD_S
            if signal is None:
                continue
            before = next(entry for entry in history if entry[0] >= now - WINDOW_S)
            value = (counted - before[1]) / max(now - before[0], PERIOD_S)
            wanted = max(first, math.ceil(value / target * 0.999))
            wanted = min(wanted, max(count + 4, 2 * count), MAX_REPLICAS)  # Kubernetes' default policy
            wanted_before = [(at, past) for at, past in wanted_before if at > now - KEEP_S] + [(now, wanted)]
            wanted = max(past for _, past in wanted_before)
            if wanted > count:
                outcome.first_scaled_s = min(outcome.first_scaled_s, now)
                starting += [now + START_S] * (wanted - count)
            while len(replicas) > wanted and not starting:
                leaving = replicas.pop()  # it drains: what it has is answered
                _advance([leaving], math.inf, outcome)
                gone += leaving.queue_s if signal == "queue" else leaving.busy_s
        now = arrives
        _advance(replicas, now, outcome)
        chosen = min(replicas, key=lambda one: len(one.waiting) + one.running)
        chosen.waiting.append(now)
        outcome.requests += 1
    _advance(replicas, math.inf, outcome)
    return outcome


def _advance(replicas: list[Replica], now: float, outcome: Outcome) -> None:
    """Run every batch that begins before `now`."""
    for one in replicas:
        while one.waiting and (begins := max(one.free_at, one.waiting[0])) < now:
            arrived = sum(at <= begins for at in one.waiting)
            batch, one.waiting = one.waiting[: min(arrived, LARGEST)], one.waiting[min(arrived, LARGEST) :]
            took = A + B * len(batch)
            one.free_at, one.running = begins + took, len(batch)
            one.busy_s += took
            one.queue_s += sum(begins - at for at in batch)
            late = sum(one.free_at - at > DEADLINE_S for at in batch)
            if late:
                outcome.missed += late
                outcome.first_miss_s = min(outcome.first_miss_s, one.free_at)
        if one.free_at <= now:
            one.running = 0


def ramp(begin: float, end: float, seconds: float) -> Load:
    """Load that rises evenly from `begin` to `end` requests a second."""
    return lambda at: begin + (end - begin) * min(1.0, at / seconds)


LOADS: dict[str, tuple[Load, float]] = {
    "four times as much over 8 minutes": (ramp(400, 1600, 480), 540.0),
    "four times as much over 2 minutes": (ramp(400, 1600, 120), 240.0),
    "1.8 times as much at once": (lambda at: 400 if at < 60 else 720, 240.0),
    "steady, half of the capacity of two": (lambda at: CAPACITY, 120.0),
}
SIGNALS: dict[str, tuple[str | None, float]] = {
    "queue, target 4": ("queue", 4.0),
    "queue, target 1": ("queue", 1.0),
    "busy, target 0.7": ("busy", 0.7),
    "none, two replicas": (None, 1.0),
}


def main() -> None:
    """Print the table."""
    new_parser(sys.modules[__name__]).parse_args()
    print("| load | signal | first scaled, s | first missed, s | missed % | replicas, maximum | mean |")
    print("|---|---|---|---|---|---|---|")
    for load_name, (load, seconds) in LOADS.items():
        for name, (signal, target) in SIGNALS.items():
            ran = simulate(load, seconds, signal, target)
            print(
                f"| {load_name} | {name} | {_shown(ran.first_scaled_s)} | {_shown(ran.first_miss_s)} | "
                f"{100 * ran.missed / ran.requests:.2f} | {ran.most} | {ran.replica_s / seconds:.1f} |",
                flush=True,
            )


def _shown(seconds: float) -> str:
    return "never" if math.isinf(seconds) else f"{seconds:.0f}"


if __name__ == "__main__":
    main()
