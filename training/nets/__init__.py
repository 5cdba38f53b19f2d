"""Nets by name, one small file each: a name and plain settings in, an `nn.Module` from rows to logits out.

`build.py` has the list of names; `foreign/` builds nets of timm and of your own code.
"""

from training.nets.build import (
    NETS,
    build_net,
    given_settings,
    initialize,
    new_net,
    read_net_settings,
    settings_for,
)
from training.nets.settings import NetError

__all__ = [
    "NETS",
    "NetError",
    "build_net",
    "given_settings",
    "initialize",
    "new_net",
    "read_net_settings",
    "settings_for",
]
