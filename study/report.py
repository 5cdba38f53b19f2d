"""The study as one page: every claim beside its measurement, then what was done, experiment by experiment.

In: a scale and findings.  Out: names and bytes of the files, `report.md` last.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict

import torch

from study.claims import Claim
from study.finding import Finding
from study.rows import MAX_SIDE, Rows
from study.scale import Scale, describe_left_out
from training.console import to_markdown
from training.figures.figure import to_png

REPORT, CLAIMS = "report.md", "claims.json"

RULE = """\
**The rule** is one for all: a two-sided Student's t test of paired values. Nets that are compared begin
with the same weights and see the same batches, and are compared seed by seed: n is the number of pairs, *d*
their mean in standard deviations (Cohen's d of paired values; "–" where all pairs are equal). If the mean's
interval lies wholly within what is claimed, the claim *held*; if it lies wholly outside, it *did not hold*;
otherwise it is *not decided*. The design is sequential: an experiment is looked at after 5, 10 and 20 seeds,
and ends where all of its claims are decided. So that three looks together err no more often than one, each
interval is at 98.3 % (5 % / 3, Bonferroni). Learning rates are chosen with two seeds that measure nothing
else. Rule, margins and design were fixed with seeds that are not among these. Of so many claims about one in
twenty may still be wrong, so no verdict near its margin should be relied upon alone; nor does anything here
say what larger nets, longer training or other data would show."""


def write_report(
    scale: Scale, rows: Rows, findings: Mapping[str, Finding], missing: Sequence[str], command: str
) -> dict[str, bytes]:
    """Plots, claims as JSON, and the page that shows both."""
    files = {plot.name: to_png(plot.figure) for finding in findings.values() for plot in finding.plots}
    files[CLAIMS] = (json.dumps(to_json(findings), ensure_ascii=False, indent=1) + "\n").encode()
    left_out = [*missing, *describe_left_out(scale)]
    blocks = [
        "# What BatchNorm did here",
        describe_conditions(scale, rows, command),
        "## Claims",
        claims_table(findings),
        RULE,
        *(block for name, finding in findings.items() for block in section(name, finding)),
    ]
    if left_out:
        blocks += ["## Left out", "\n".join(f"- {line}" for line in left_out)]
    files[REPORT] = ("\n\n".join(blocks) + "\n").encode()
    return files


def describe_conditions(scale: Scale, rows: Rows, command: str) -> str:
    """What all experiments share."""
    shape = " × ".join(map(str, rows.facts.input_shape))
    looks = ", ".join(map(str, scale.looks))
    return (
        f"`{command}` wrote this page; every number and verdict on it is computed.\n\nData: "
        f"**{rows.facts.name}**, {len(rows.train_y):,} rows of {shape} to train on and "
        f"{len(rows.held_out_y):,} held out, {rows.num_classes} classes; pictures of more than "
        f"{MAX_SIDE} pixels a side are halved. **n = {looks} seeds**, the first of these that decides; ± is "
        "their standard deviation, bands in plots go from the smallest to the largest. Unless said "
        "otherwise: a plain convolutional net of 8 layers (3×3, 8 to 32 channels, no shortcuts), batches "
        "of 32 rows, Nesterov momentum 0.9, a constant learning rate, no weight decay, no augmentation. "
        f"*Without BatchNorm* each one is replaced by a bias. torch {torch.__version__}, CPU, float32, one "
        "thread a run."
    )


def claims_table(findings: Mapping[str, Finding]) -> str:
    """One line for each claim of each finding."""
    lines = [
        [f"[{claim.text}](#{anchor(finding.title)})", claim.measured_by, *measured(claim)]
        for finding in findings.values()
        for claim in finding.claims
    ]
    return to_markdown(
        ["claim", "measured by", "claimed", "n", "mean", "98.3 % interval", "d", "here"], lines, numbers=False
    )


def measured(claim: Claim) -> list[str]:
    """What is claimed, number of pairs, mean, interval, effect size and verdict, as shown."""
    unit, ends = claim.unit, claim.interval
    low, high = (unit.show(end) for end in (reversed(ends) if unit.falls else ends))
    return [
        f"{'<' if unit.falls else '>'} {unit.show(claim.margin)}",
        str(len(claim.values)),
        unit.show(claim.mean),
        f"{low} … {high}",
        "–" if claim.effect is None else f"{-claim.effect if unit.falls else claim.effect:+.1f}",
        claim.verdict if claim.verdict == "not decided" else f"**{claim.verdict}**",
    ]


def section(name: str, finding: Finding) -> list[str]:
    """An experiment: what was done, plots, numbers, remarks."""
    return [
        f"## {finding.title}",
        finding.done,
        *(f"![{plot.shows}]({plot.name})\n\n*{plot.shows}.*" for plot in finding.plots),
        finding.table,
        *finding.remarks,
        f"Again, alone: `--only {name}`.",
    ]


def anchor(title: str) -> str:
    """As Markdown pages name their headings."""
    kept = "".join(letter for letter in title.lower() if letter.isalnum() or letter in " -")
    return kept.replace(" ", "-")


def to_json(findings: Mapping[str, Finding]) -> list[dict[str, object]]:
    """Every claim with its values, one for each seed."""
    return [
        {
            "experiment": name,
            **{key: value for key, value in asdict(claim).items() if key != "unit"},
            "unit": claim.unit.name,
            "mean": claim.mean,
            "interval": claim.interval,
            "effect": claim.effect,
            "verdict": claim.verdict,
        }
        for name, finding in findings.items()
        for claim in finding.claims
    ]
