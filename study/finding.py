"""What an experiment hands to the report."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure

from study.claims import Claim
from study.lab import Measure
from study.scale import Scale


@dataclass(frozen=True, kw_only=True)
class Plot:
    """A picture, not rendered yet, and in words what it shows."""

    name: str
    shows: str
    figure: Figure


@dataclass(frozen=True, kw_only=True)
class Finding:
    """`done` says exactly what was measured; `table` is Markdown; `remarks` are facts beside the claims."""

    title: str
    done: str
    claims: Sequence[Claim]
    plots: Sequence[Plot]
    table: str
    remarks: Sequence[str] = ()

    @property
    def is_decided(self) -> bool:
        """Whether no claim needs more seeds."""
        return all(claim.verdict != "not decided" for claim in self.claims)


Experiment = Callable[[Scale, Measure], Finding]
Experiments = Mapping[str, Experiment]


def with_spread(values: Sequence[float], digits: int = 1, times: float = 1.0) -> str:
    """Mean ± standard deviation over the seeds."""
    mean, spread = times * statistics.fmean(values), times * statistics.stdev(values)
    return f"{mean:.{digits}f} ± {spread:.{digits}f}"


def describe_nets(nets: Mapping[str, Mapping[str, Any]]) -> str:
    """Names with their settings."""
    return "; ".join(
        f"{net} with {', '.join(f'{name} {value}' for name, value in settings.items())}"
        for net, settings in nets.items()
    )
