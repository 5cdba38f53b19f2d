"""What a library's error says, for a sentence of our own."""

import re
from argparse import ArgumentParser
from collections.abc import Mapping
from difflib import get_close_matches
from types import MappingProxyType

MAX_LENGTH = 300
NONE: Mapping[str, str] = MappingProxyType({})


def first_line(error: BaseException) -> str:
    """The first line, of at most 300 characters, of what the error at the root of `error` says.

    The root is what it was raised from, if anything; the name of its type stands for an error without words.
    """
    while error.__cause__ is not None:
        error = error.__cause__
    return (str(error).strip() or type(error).__name__).splitlines()[0][:MAX_LENGTH]


def flag_error(message: str, parser: ArgumentParser, elsewhere: Mapping[str, str] = NONE) -> str:
    """argparse's message; of flags that are unknown, with the one that each was meant for, if that is clear.

    `elsewhere` has flags of other tools, and what they are called in this one.
    """
    if not message.startswith("unrecognized arguments: "):
        return message
    known = list(dict.fromkeys(re.findall(r"--\w[\w-]*", parser.format_usage())))
    meant = []
    for flag in (word.partition("=")[0] for word in message.split() if word.startswith("--")):
        ours = elsewhere.get(flag, "")
        if ours and ours.split()[0] in known:
            meant.append(ours)
        else:
            meant += get_close_matches(flag, known, n=1, cutoff=0.7)
    return f"{message} (did you mean {' and '.join(meant)}?)" if meant else message
