"""The flags of `foldserve serve`: one for each setting, as argparse shows and reads them.

In: the fields of a pydantic model, the command line's words.  Out: what was given, as text by field name;
the model checks it.

    --max-body-mb 8   --buckets 1,8   --buckets 1 --buckets 8   --model-control   --lanes None (as if unset)
"""

from argparse import SUPPRESS, ArgumentParser, BooleanOptionalAction, RawDescriptionHelpFormatter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn, get_args, get_origin

from pydantic.fields import FieldInfo

from service.contract.text import flag_error

UNSET = "None"


class FlagError(Exception):
    """Words that are not flags and values; the message is argparse's sentence."""


class _Parser(ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise FlagError(flag_error(message, self))


def read_flags(
    fields: Mapping[str, FieldInfo], words: Sequence[str], *, prog: str, description: str, example: str
) -> dict[str, Any]:
    """What the words give for each of `fields`; raises FlagError.  --help prints and exits 0."""
    parser = _Parser(
        prog=prog,
        description=description,
        epilog=example,
        formatter_class=RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    for name, field in fields.items():
        _add(parser, name, field)
    given = vars(parser.parse_args(words))
    for name, value in given.items():
        if isinstance(value, list):
            given[name] = ",".join(value)
        elif value == UNSET and type(None) in get_args(fields[name].annotation):
            given[name] = None
    return given


def _add(parser: ArgumentParser, name: str, field: FieldInfo) -> None:
    """Add the flag of one field: text, which the model checks as it checks a variable."""
    flag, text = f"--{name.replace('_', '-')}", _help(field)
    if field.annotation is bool:
        parser.add_argument(flag, action=BooleanOptionalAction, default=SUPPRESS, help=text)
    else:
        action = "append" if get_origin(field.annotation) is tuple else "store"
        parser.add_argument(flag, action=action, default=SUPPRESS, metavar=_metavar(field), help=text)


def _metavar(field: FieldInfo) -> str:
    """What a value looks like."""
    kinds = {field.annotation, *get_args(field.annotation)}
    if get_origin(field.annotation) is Literal:
        return f"{{{','.join(get_args(field.annotation))}}}"
    if get_origin(field.annotation) is tuple:
        return "A,B,…"
    if Path in kinds:
        return "PATH"
    return "N" if kinds & {int, float} else "TEXT"


def _help(field: FieldInfo) -> str:
    """The description, and the default where it is a value that can be typed."""
    text = (field.description or "").replace("%", "%%")
    default = field.default
    if isinstance(default, tuple):
        default = ",".join(map(str, default))
    if field.default_factory is not None or default is False or default in (None, ""):
        return text
    shown = f"{default:g}" if isinstance(default, float) else default
    return f"{text} (default {shown})"
