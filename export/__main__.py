"""The command line of export: `bundle`, `fold` and `verify`.  Data on stdout, narration on stderr."""

import argparse
import contextlib
import json
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: spinning threads starve a neighbour

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from export.errors import ExportError
from service.contract.manifest import BundleError, FoldSite

if TYPE_CHECKING:
    from export.fold.usual import Price

EXAMPLES = """examples:
  python -m export bundle runs/digits/checkpoint.pt --to models/digits
  python -m export bundle mynets:resnet --input-shape 3,224,224 --weights resnet.pt --to models/resnet
  python -m export bundle resnet.onnx --to models/resnet
  python -m export fold in.onnx out.onnx --report fold.json
  python -m export verify models/digits/1
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit code: 0 done, 1 not proved, 2 a mistake, 130 interrupted."""
    options = _parser().parse_args(arguments)
    options.arguments = sys.argv[1:] if arguments is None else list(arguments)
    console = Console(stderr=True, emoji=False)
    try:
        return int(options.run(options, console))
    except (ExportError, BundleError) as error:
        console.print(f"[red]error:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        return 2
    except KeyboardInterrupt:
        console.print("interrupted: nothing was written", highlight=False)
        return 130


def _bundle(options: argparse.Namespace, console: Console) -> int:
    from export.bundle.make import make_bundle, parity_facts
    from export.sources.source import SourceOptions, open_source

    # A factory of the user's may print; stdout is for data.
    with console.status(f"opening {options.source}") as status, contextlib.redirect_stdout(sys.stderr):
        source = open_source(
            options.source,
            SourceOptions(
                input_shape=options.input_shape,
                weights=options.weights,
                labels=options.labels,
                mean=options.mean,
                std=options.std,
                pixels=options.inputs == "uint8",
            ),
        )
        command = "python -m export " + shlex.join(options.arguments)
        bundle, proof = make_bundle(
            source,
            options.to,
            seed=options.seed,
            command=command,
            say=status.update,
            prices=_prices(options),
            half=options.dtype == "float16",
        )
    fold = bundle.manifest.fold
    _show_sites(fold.sites, console)
    for name, tolerance in proof.tolerances.items():
        console.print(
            f"proved: '{name}' differs from the unfolded net by at most {proof.folded.worst[name]:.3g}, "
            f"tolerance {tolerance.max_abs:.3g}",
            highlight=False,
        )
    facts = {"bundle": str(bundle.path), **fold.model_dump(exclude={"sites"}), **parity_facts(proof)}
    print(json.dumps(facts, indent=2))
    return 0


def _fold(options: argparse.Namespace, console: Console) -> int:
    from export.errors import SourceError
    from export.fold.proved import FoldOptions
    from export.fold_file import fold_file

    given = (options.inputs, options.mean, options.std)
    if None in given and given != (None, None, None):
        raise SourceError("--inputs uint8, --mean and --std go together: pixels need both to become rows")
    with console.status(f"folding {options.source}") as status:
        fold = fold_file(
            options.source,
            options.target,
            report=options.report,
            seed=options.seed,
            say=status.update,
            options=FoldOptions(
                prices=_prices(options),
                pixels=(options.mean, options.std) if options.inputs else None,
            ),
        )
    _show_sites(fold.sites, console)
    print(fold.model_dump_json(indent=2))
    return 0


def _verify(options: argparse.Namespace, console: Console) -> int:
    from export.proof.verify import verify

    with console.status(f"replaying the golden rows of {options.bundle}"):
        facts = verify(options.bundle)
    print(json.dumps(facts, indent=2))
    return 0 if facts["proved"] else 1


def _show_sites(sites: Sequence[FoldSite], console: Console) -> None:
    table = Table("BatchNorm", "status", "where to, or why not", "smallest σ²", "largest |γ|/√(σ²+ε)", "dead")
    for site in sites:
        status, account = site.status, site.how or site.reason
        health = (site.smallest_variance, site.largest_gain, site.dead_channels)
        table.add_row(
            escape(site.name),
            f"[{'yellow' if status == 'declined' else 'green'}]{status}[/]",
            escape(account or ""),
            *("" if number is None else f"{number:.3g}" for number in health),
        )
    console.print(table)


def _prices(options: argparse.Namespace) -> "frozenset[Price]":
    from export.errors import SourceError
    from export.fold.usual import FREE, Price

    if options.only_free and (options.threshold or options.pad):
        raise SourceError("--only-free allows neither --threshold nor --pad")
    asked = {Price.THRESHOLD: options.threshold, Price.BORDER: options.pad}
    return FREE | {price for price, is_asked in asked.items() if is_asked}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m export",
        description="Fold BatchNorms away, prove that nothing changed, pack a bundle.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = parser.add_subparsers(required=True, metavar="{bundle,fold,verify}")

    bundle = _verb(verbs, "bundle", "fold, prove and pack the next version of a model", _bundle)
    bundle.add_argument("source", metavar="SOURCE", help="a checkpoint, module:factory, or an .onnx file")
    bundle.add_argument("--to", type=Path, required=True, metavar="models/NAME", help="the model's folder")
    bundle.add_argument(
        "--input-shape", type=_ints, help="one row's shape for module:factory, e.g. 3,224,224"
    )
    bundle.add_argument("--weights", type=Path, help="a state_dict for module:factory (torch.save)")
    bundle.add_argument("--labels", type=Path, help="class names, one a line")
    bundle.add_argument("--mean", type=_floats, help="per channel, of pixels in 0…1, e.g. 0.485,0.456,0.406")
    bundle.add_argument("--std", type=_floats, help="per channel, of pixels in 0…1")
    bundle.add_argument("--seed", type=_seed, default=0, help="of the golden rows' noise (default 0)")
    bundle.add_argument(
        "--dtype", choices=["float32", "float16"], default="float32", help="of the weights (default float32)"
    )
    _fold_options(bundle)

    fold = _verb(verbs, "fold", "fold an ONNX file's BatchNorms, nothing else", _fold)
    fold.add_argument("source", type=Path, metavar="IN.onnx")
    fold.add_argument("target", type=Path, metavar="OUT.onnx")
    fold.add_argument("--report", type=Path, metavar="fold.json", help="write the account of every BatchNorm")
    fold.add_argument("--seed", type=_seed, default=0, help="of the rows that prove the fold (default 0)")
    fold.add_argument("--mean", type=_floats, help="with --inputs uint8: per channel, of pixels in 0…1")
    fold.add_argument("--std", type=_floats, help="with --inputs uint8: per channel, of pixels in 0…1")
    _fold_options(fold)

    verify = _verb(verbs, "verify", "prove a bundle again on this machine; exit code 1 if it fails", _verify)
    verify.add_argument("bundle", type=Path, metavar="models/NAME/VERSION")
    return parser


def _fold_options(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--only-free",
        action="store_true",
        help="only folds that cost nothing (the default)",
    )
    verb.add_argument(
        "--threshold",
        action="store_true",
        help="fold before a Relu too, which becomes a Max or Min per channel: slower on ONNX Runtime's CPU",
    )
    verb.add_argument(
        "--pad",
        action="store_true",
        help="fold before a padded Conv too, by an Add behind it for its border, where H and W are fixed",
    )
    verb.add_argument(
        "--inputs",
        choices=["uint8"],
        help="take uint8 pixels: their normalisation by --mean and --std is folded too",
    )


def _verb(
    verbs: "argparse._SubParsersAction[argparse.ArgumentParser]",
    name: str,
    text: str,
    run: Callable[..., int],
) -> argparse.ArgumentParser:
    verb = verbs.add_parser(
        name,
        help=text,
        description=text[0].upper() + text[1:] + ".",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verb.set_defaults(run=run)
    return verb


def _seed(text: str) -> int:
    if (seed := int(text)) < 0:
        raise ValueError(text)
    return seed


def _ints(text: str) -> tuple[int, ...]:
    sizes = tuple(int(part) for part in text.split(","))
    if min(sizes) < 1:
        raise ValueError(text)
    return sizes


def _floats(text: str) -> tuple[float, ...]:
    return tuple(float(part) for part in text.split(","))


if __name__ == "__main__":
    sys.exit(main())
