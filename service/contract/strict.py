"""The base of every part of a manifest: no unknown key, no value of another type, and nothing changes."""

from pydantic import BaseModel, ConfigDict


class Strict(BaseModel):
    """A part of a manifest; keys and types are checked when it is made."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)
