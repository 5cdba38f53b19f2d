"""`foldserve evaluate`: a checkpoint or a bundle on a test set, without a server.

In: SOURCE and flags.  Out: a table on stdout, or one JSON object with --json.

exit code   0 done   2 the user's mistake, in one sentence
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from training.console import new_console, say, to_markdown
from training.errors import TrainingError
from training.settings.config import ConfigError, split_settings
from training.settings.environment import set_environment
from training.settings.flags import Parser

if TYPE_CHECKING:
    pass

EXAMPLE = """\
examples:
  foldserve evaluate runs/pets
  foldserve evaluate runs/pets --data folder:pets-test --mistakes 20
  foldserve evaluate models/pets/1 --data folder:pets-test --json
  foldserve evaluate runs/pets --temperature runs/pets/calibrated.pt

The data are the held-out half of what the run was trained on; with --data all
of another folder, table or archive, or its held-out half where it has one.
"""
PROG = "foldserve evaluate"
NUM_PAIRS = 10


def build_parser(prog: str = PROG) -> argparse.ArgumentParser:
    """The flags."""
    parser = Parser(prog, "Measure a checkpoint or a bundle on a test set, without a server.", EXAMPLE)
    parser.add_argument(
        "source", type=Path, metavar="SOURCE", help="folder of a run, a checkpoint, or folder of a bundle"
    )
    parser.add_argument("--data", metavar="NAME", help="another data set, as in `foldserve train`")
    parser.add_argument("--data-setting", action="append", default=[], metavar="NAME=VALUE", help="of --data")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto", help="(default auto)")
    parser.add_argument("--json", action="store_true", help="one JSON object, instead of tables")
    parser.add_argument(
        "--mistakes",
        type=int,
        default=5,
        metavar="N",
        help="how many of the worst to name, by their files (default 5)",
    )
    parser.add_argument(
        "--temperature",
        type=Path,
        metavar="FILE",
        help="calibrate: fit a temperature on every second picture, measure it on the others, and write the "
        "checkpoint with it in its last layer to FILE",
    )
    return parser


def main(argv: Sequence[str], prog: str = PROG) -> int:
    """Run the command line, which --help calls `prog`; returns the exit code."""
    try:
        given = build_parser(prog).parse_args(argv)
        if given.mistakes < 0:
            raise ConfigError(f"mistakes must be zero or positive, got {given.mistakes}")
        set_environment()
        report = evaluate(given)
    except TrainingError as error:
        print(f"foldserve: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    print(json.dumps(report, ensure_ascii=False) if given.json else to_text(report))
    return 0


def evaluate(given: argparse.Namespace) -> dict[str, Any]:
    """Measure; returns what is printed."""
    # As in __main__: torch takes seconds to import.
    from training.evaluation.answering import open_answering
    from training.evaluation.measures import measure
    from training.evaluation.test_set import load_test_set
    from training.figures.mistakes import find_mistakes
    from training.loop.device import find_device

    answering = open_answering(given.source, find_device(given.device))
    tests = load_test_set(answering, given.data, split_settings("data", given.data_setting))
    console = new_console()
    for note in tests.notes:
        say(console, f"data: {note}")
    logits, labels, names = answering.logits(tests.pixels), tests.labels, answering.facts.labels
    mistakes = [each for each in find_mistakes(logits, labels, given.mistakes) if each.is_wrong]
    files = tests.name_rows([each.row for each in mistakes])
    report = {
        "source": answering.where,
        "data": tests.name,
        **measure(logits, labels, names).plain(),
        "mistakes": [
            {
                "file": file,
                "true": names[each.true],
                "predicted": names[each.predicted],
                "p_true": each.p_true,
                "p_predicted": each.p_predicted,
            }
            for file, each in zip(files, mistakes, strict=True)
        ],
    }
    if given.temperature:
        report["calibration"] = calibrate(answering, logits, labels, given.temperature)
    return report


def calibrate(answering: Any, logits: Any, labels: Any, path: Path) -> dict[str, Any]:
    """Fit on the even rows, measure on the odd ones; write the calibrated checkpoint."""
    from training.evaluation.answering import EvaluationError
    from training.evaluation.calibrated import with_temperature
    from training.evaluation.measures import calibration_error, find_temperature
    from training.runs.checkpoint import save_checkpoint

    if answering.checkpoint is None:
        raise EvaluationError(
            "a bundle stays as it is: give --temperature to its checkpoint, and bundle that"
        )
    if len(labels) < 2:
        raise EvaluationError(f"a temperature needs at least 2 pictures, got {len(labels)}")
    temperature = find_temperature(logits[::2], labels[::2])
    save_checkpoint(path, with_temperature(answering.checkpoint, temperature))
    return {
        "temperature": temperature,
        "ece_before": calibration_error(logits[1::2], labels[1::2]),
        "ece_after": calibration_error(logits[1::2] / temperature, labels[1::2]),
        "checkpoint": str(path),
    }


def to_text(report: dict[str, Any]) -> str:
    """Tables for a terminal: all at once, each class, what is confused, the worst mistakes."""
    import numpy as np

    from training.figures.confusion import list_confusions

    lines = [f"{report['source']} on {report['data']}: {report['rows']:,} pictures", ""]
    whole = ("accuracy", "macro_recall", "macro_precision", "macro_f1")
    shares = [(key.replace("_", " "), f"{report[key]:.2%}") for key in whole]
    numbers = [(key, f"{report[key]:.4f}") for key in ("loss", "ece")]
    lines.append(to_markdown(["", "all"], [*shares, *numbers], aligned=True))
    classes = [
        (each["name"], f"{each['rows']:,}", *map(_share, (each["precision"], each["recall"], each["f1"])))
        for each in report["classes"]
    ]
    lines += ["", to_markdown(["class", "pictures", "precision", "recall", "F1"], classes, aligned=True)]
    names = [each["name"] for each in report["classes"]]
    pairs = list_confusions(np.array(report["confusion"]), NUM_PAIRS)
    if pairs:
        confused = [(names[true], names[said], f"{count:,}") for true, said, count in pairs]
        lines += ["", to_markdown(["true", "called", "times"], confused, aligned=True)]
    if report["mistakes"]:
        worst = [
            (each["file"], each["true"], each["predicted"], f"{each['p_predicted']:.0%}")
            for each in report["mistakes"]
        ]
        lines += ["", to_markdown(["worst mistakes", "true", "called", "sure"], worst, aligned=True)]
    if found := report.get("calibration"):
        lines += [
            "",
            f"temperature {found['temperature']:.3f}: ECE {found['ece_before']:.4f} → "
            f"{found['ece_after']:.4f}",
            f"on the pictures it was not fitted on; written to {found['checkpoint']}",
        ]
    return "\n".join(lines)


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"
