"""Dataclasses as plain values, and back: what a checkpoint is made of.

In: a dataclass of numbers, text, lists, dicts, tensors and dataclasses.  Out: nested dicts of the same.
The way back checks every key and every type, and names the first that is wrong.
"""

import sys
from dataclasses import MISSING, fields, is_dataclass
from types import NoneType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import torch
from torch import Tensor

T = TypeVar("T")


class RecordError(ValueError):
    """A key that is missing, unknown or of the wrong type; the message says where."""


def to_plain(value: Any) -> Any:
    """A copy of plain values: dataclasses as dicts, tensors on the CPU and one after the other in memory.

    Equal values give equal bytes when pickled, which says whether two of them are one object: equal texts
    become one, and everything else becomes an object of its own.
    """
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Tensor):
        return value.detach().to("cpu", memory_format=torch.contiguous_format, copy=True)
    if isinstance(value, dict):
        return {to_plain(key): to_plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(to_plain(entry) for entry in value)
    return sys.intern(value) if isinstance(value, str) else value


def read_record(cls: type[T], record: Any, where: str) -> T:
    """Build a dataclass from a dict with exactly its keys, each of its type.

    One with a default may be missing: files from before there was such a key do not have it.
    """
    if not isinstance(record, dict):
        raise RecordError(f"{where} must be a dict, got {type(record).__name__}")
    hints = get_type_hints(cls)
    needed = {field.name for field in fields(cls) if field.default is field.default_factory is MISSING}  # type: ignore[arg-type]
    if missing := sorted(needed - record.keys()):
        raise RecordError(f"{where}: {missing[0]} is missing")
    if unknown := sorted(str(key) for key in record.keys() - hints.keys()):
        raise RecordError(f"{where}: {unknown[0]} is unknown")
    values = {key: _read(hint, record[key], where, key) for key, hint in hints.items() if key in record}
    try:
        return cls(**values)
    except ValueError as error:
        raise RecordError(f"{where}: {error}") from None


def _read(hint: Any, value: Any, where: str, key: str) -> Any:
    """A value of the type that `hint` names; dataclasses are built, also where None or a list is allowed."""
    inner = get_args(hint)
    if NoneType in inner:
        (hint,) = (one for one in inner if one is not NoneType)
        return None if value is None else _read(hint, value, where, key)
    if isinstance(hint, type) and is_dataclass(hint):
        return read_record(hint, value, f"{where}: {key}")
    if get_origin(hint) is list and isinstance(value, list) and is_dataclass(inner[0]):
        return [
            read_record(inner[0], entry, f"{where}: {key} {index}")  # type: ignore[arg-type]
            for index, entry in enumerate(value)
        ]
    if not _fits(value, hint):
        name = hint.__name__ if isinstance(hint, type) and not inner else hint
        raise RecordError(f"{where}: {key} must be {name}, got {type(value).__name__}")
    return value


def _fits(value: Any, hint: Any) -> bool:
    """Whether `value` is of the type that `hint` names, all the way down."""
    outer, inner = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if outer is Literal:
        return value in inner
    if outer is list:
        return isinstance(value, list) and all(_fits(entry, inner[0]) for entry in value)
    if outer is tuple:
        return (
            isinstance(value, tuple)
            and len(value) == len(inner)
            and all(_fits(entry, of) for entry, of in zip(value, inner, strict=True))
        )
    if outer is dict:
        return isinstance(value, dict) and all(
            _fits(key, inner[0]) and _fits(entry, inner[1]) for key, entry in value.items()
        )
    return isinstance(value, hint) and not isinstance(value, bool)
