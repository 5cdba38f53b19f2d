"""The flags of every verb.  No heavy package is imported here, so that `--help` is fast."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from export.commands.picture_flags import add_picture_flags, expecting
from service.contract.text import flag_error

EXAMPLES = {
    "bundle": (
        "foldserve export bundle runs/digits/checkpoint.pt --to models/digits",
        "foldserve export bundle resnet.onnx --to models/resnet",
        "foldserve export bundle mynets:resnet --input-shape 3,224,224 \\",
        "  --weights resnet.pt --to models/resnet",
        "foldserve export bundle timm:resnet18 --weights net.pt --to models/r18",
        "foldserve export bundle resnet.onnx --dtype int8 --to models/resnet",
    ),
    "fold": (
        "foldserve export fold in.onnx out.onnx --report fold.json",
        "foldserve export fold timm:resnet18 out.onnx --weights net.pt",
    ),
    "verify": (
        "foldserve export verify models/digits/1",
        "foldserve export verify timm:resnet18 --weights net.pt",
    ),
    "show": ("foldserve export show models/digits/1",),
    "sign": ("foldserve export sign models/digits/1 --key key.pem",),
}

_NUMBERS = expecting(
    "numbers such as 0.5,0.4,0.3", lambda text: tuple(float(part) for part in text.split(","))
)
BUNDLE_HELP = "a model, whose newest version is used; or one version"
SOURCE_HELP = "a checkpoint, an .onnx or TorchScript file, timm:NAME, torchvision:NAME or module:factory"


class _Parser(argparse.ArgumentParser):
    """A mistake is one sentence, without the usage, and exit code 2; the verbs' parsers are such ones too."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {flag_error(message, self)}; see {self.prog} --help\n")


def parse(prog: str, arguments: Sequence[str] | None) -> argparse.Namespace:
    """The flags as `parser` has them; what is unknown is refused by the verb, which knows what is near."""
    options, unknown = parser(prog).parse_known_args(arguments)
    if unknown:
        options.flags.error(f"unrecognized arguments: {' '.join(unknown)}")
    return options


def parser(prog: str) -> argparse.ArgumentParser:
    """The parser of `python -m export`; `options.verb` is the verb, the rest its flags."""
    whole = _Parser(
        prog=prog,
        description="Fold BatchNorms away, prove that nothing changed, pack a bundle.",
        epilog=_epilog(*EXAMPLES),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = whole.add_subparsers(required=True, dest="verb", metavar="{bundle,fold,verify,show,sign}")

    bundle = _verb(verbs, "bundle", "fold, prove and pack the next version of a model")
    bundle.add_argument("source", metavar="SOURCE", help=SOURCE_HELP)
    bundle.add_argument("--to", type=Path, required=True, metavar="models/NAME", help="the model's folder")
    _input_options(bundle)
    bundle.add_argument("--labels", type=Path, metavar="FILE", help="class names, one per line; or imagenet")
    bundle.add_argument(
        "--mean", type=_NUMBERS, metavar="A,B,C", help="per channel, of pixels in 0…1, e.g. 0.485,0.456,0.406"
    )
    bundle.add_argument("--std", type=_NUMBERS, metavar="A,B,C", help="per channel, of pixels in 0…1")
    bundle.add_argument(
        "--seed", type=_seed, default=0, metavar="N", help="seed of the golden rows' noise (default 0)"
    )
    bundle.add_argument(
        "--dtype",
        choices=["float32", "float16", "int8"],
        default="float32",
        help="type of the stored weights (default float32); int8 adds a second graph to the float32 one",
    )
    bundle.add_argument(
        "--calibrate",
        type=Path,
        metavar="DATA",
        help="with int8: rows.npz or a folder of pictures, for the ranges; else BatchNorms' own statistics",
    )
    bundle.add_argument(
        "--max-accuracy-drop",
        type=_points,
        metavar="POINTS",
        help="with int8: what it may lose, in percentage points (default 0.5)",
    )
    _fold_options(bundle)
    _no_proof(bundle)
    add_picture_flags(bundle)

    fold = _verb(verbs, "fold", "fold a source's BatchNorms into an ONNX file, nothing else")
    fold.add_argument("source", metavar="SOURCE", help=SOURCE_HELP)
    fold.add_argument("target", type=Path, metavar="OUT.onnx", help="the folded file to write")
    fold.add_argument("--report", type=Path, metavar="fold.json", help="write what became of every BatchNorm")
    _random_rows_options(fold)
    _no_proof(fold)

    verify = _verb(
        verbs, "verify", "prove a bundle again on this machine, or a source; exit code 1 if it fails"
    )
    verify.add_argument(
        "source",
        metavar="models/NAME|SOURCE",
        help=BUNDLE_HELP + "; or what is to be folded and proved, and nothing written: " + SOURCE_HELP,
    )
    _random_rows_options(verify)

    show = _verb(verbs, "show", "print a bundle's tensors, labels, preprocessing, ranges and accuracy")
    show.add_argument("bundle", type=Path, metavar="models/NAME", help=BUNDLE_HELP)

    sign = _verb(verbs, "sign", "sign a bundle, for services that serve only signed ones")
    sign.add_argument("bundle", type=Path, metavar="models/NAME", help=BUNDLE_HELP)
    sign.add_argument(
        "--key", type=Path, required=True, metavar="key.pem", help="an Ed25519 private key in PEM"
    )
    return whole


def _random_rows_options(verb: argparse.ArgumentParser) -> None:
    """What `fold` and `verify SOURCE` share: a fold that is proved on random rows."""
    verb.add_argument(
        "--seed", type=_seed, default=0, metavar="N", help="seed of the proof's rows (default 0)"
    )
    for name in ("--mean", "--std"):
        verb.add_argument(
            name, type=_NUMBERS, metavar="A,B,C", help="with --inputs uint8: per channel, of pixels in 0…1"
        )
    _input_options(verb)
    _fold_options(verb)


def _input_options(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--input-shape",
        action="append",
        default=[],
        metavar="[NAME=]C,H,W",
        help="sizes that the source leaves open, e.g. 3,224,224; of an ONNX file also ranges, e.g. "
        "3,48,32..640/32; once for each input, or for each open size by its NAME; of a net N is where its "
        "rows are, e.g. 20,N,40, and alone one number a row",
    )
    verb.add_argument(
        "--input-type",
        action="append",
        default=[],
        metavar="[NAME=]TYPE",
        help="of a net: the type of an input, e.g. ids=int32; else one of float32, int64, bool that runs",
    )
    verb.add_argument(
        "--input-value",
        action="append",
        default=[],
        metavar="NAME=NUMBER",
        help="of an ONNX file: an input that is always this number, e.g. sr=16000, and becomes a constant",
    )
    verb.add_argument(
        "--weights", type=Path, metavar="FILE", help="of a net: state dict, .safetensors, any checkpoint"
    )
    verb.add_argument(
        "--rows",
        type=Path,
        metavar="FILE.npz",
        help="real rows for the proof, an array for each input by name",
    )


def _no_proof(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--no-proof",
        action="store_true",
        help="where nothing can be proved (an op that nothing here computes), write it unproved; a service "
        "needs --allow-unproved to serve that",
    )


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
        help="fold before a padded Conv too, with an Add after it for its border; H and W must be fixed",
    )
    verb.add_argument(
        "--inputs",
        choices=["uint8"],
        help="accept uint8 pixels, and fold their normalisation by --mean and --std too",
    )


def _verb(
    verbs: "argparse._SubParsersAction[_Parser]",
    name: str,
    text: str,
) -> argparse.ArgumentParser:
    flags = verbs.add_parser(
        name,
        help=text,
        description=text[0].upper() + text[1:] + ".",
        epilog=_epilog(name),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    flags.set_defaults(flags=flags)
    return flags


def _epilog(*verbs: str) -> str:
    """The examples of these verbs, one command after another."""
    return "\n  ".join(["examples:", *(line for verb in verbs for line in EXAMPLES[verb])])


def _seed(text: str) -> int:
    if (seed := int(text)) < 0:
        raise ValueError(text)
    return seed


def _points(text: str) -> float:
    if not 0 <= (points := float(text)) <= 100:
        raise ValueError(text)
    return points
