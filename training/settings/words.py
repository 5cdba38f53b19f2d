"""Settings as a command line writes them: `depth=20`, `channels=16,32`, already split at the equals sign.

In: words.  Out: plain values of the types that a dataclass of settings asks for.
"""

from collections.abc import Mapping
from typing import Any, get_args, get_origin

from training.errors import TrainingError, describe_unknown

_IN_WORDS = {int: "a whole number", float: "a number", str: "a word"}


def read_words(
    owner: str, hints: Mapping[str, Any], words: Mapping[str, str], error: type[TrainingError]
) -> dict[str, Any]:
    """Values of the settings that `words` name; raises `error` for an unknown name or a wrong word."""
    values = {}
    for name, word in words.items():
        if name not in hints:
            raise error(describe_unknown(f"setting of {owner}", name, hints))
        try:
            values[name] = _read(word, hints[name])
        except ValueError:
            raise error(f"setting {name} of {owner} must be {_describe(hints[name])}, got {word!r}") from None
    return values


def _read(word: str, hint: Any) -> Any:
    if get_origin(hint) is tuple:
        # `hidden=` is no layer at all.
        return tuple(_read(part, get_args(hint)[0]) for part in word.split(",")) if word else ()
    return hint(word)


def _describe(hint: Any) -> str:
    if get_origin(hint) is tuple:
        return f"{_IN_WORDS[get_args(hint)[0]]}, or several with commas between"
    return _IN_WORDS[hint]
