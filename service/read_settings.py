"""Settings as they are given: flags first, then environment variables FOLDSERVE_*, then defaults.

In: the command line and the environment.  Out: a frozen `Settings`, or a SettingsError in one sentence.

    --max-body-mb 8   =   FOLDSERVE_MAX_BODY_MB=8
"""

import logging
import os
import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches

from pydantic import ValidationError

from service.flags import FlagError, read_flags
from service.settings import PREFIX, Settings

# Kubernetes describes a Service called "foldserve" or "foldserve-x" to every pod in variables of these names,
# and container links do the same: FOLDSERVE_X_SERVICE_HOST, FOLDSERVE_X_PORT_8000_TCP_ADDR.
_FROM_LINKS = re.compile(r"FOLDSERVE_(\w+_)?(SERVICE_(HOST|PORT)(_\w+)?|PORT(_\d+_\w+)?|NAME|ENV_\w+)")
_log = logging.getLogger("foldserve")

DESCRIPTION = """\
Serve a folder of bundles over HTTP: Open Inference Protocol v2, /predict for
pictures, /metrics, /docs, and a page at /.
"""
EXAMPLE = """\
examples:
  foldserve serve --models models --port 8000
  curl --data-binary @seven.png http://127.0.0.1:8000/predict

Every flag is also an environment variable:
--max-body-mb 8 is FOLDSERVE_MAX_BODY_MB=8.
"""


class SettingsError(Exception):
    """A flag or variable that is unknown or has a wrong value."""


def read_settings(
    arguments: Sequence[str], environment: Mapping[str, str] = os.environ, *, prog: str = "python -m service"
) -> Settings:
    """Settings from the command line's arguments and the environment; --help prints and exits 0.

    `prog` is what --help calls the command. SettingsError: an unknown flag, or a wrong value.
    """
    _warn_of_unknown(environment)
    try:
        # Kubernetes again: FOLDSERVE_PORT=tcp://10.0.0.1:8000 is its address of us, not our setting.
        if environment.get(f"{PREFIX}PORT", "").startswith("tcp://"):
            os.environ.pop(f"{PREFIX}PORT", None)
        return Settings(
            **read_flags(
                Settings.model_fields, arguments, prog=prog, description=DESCRIPTION, example=EXAMPLE
            )
        )
    except FlagError as error:
        raise SettingsError(str(error)) from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        message = first["msg"].removeprefix("Value error, ")
        if not first["loc"]:
            raise SettingsError(message) from None
        name = str(first["loc"][0])
        flag = f"--{name.replace('_', '-')} ({PREFIX}{name.upper()})"
        raise SettingsError(f"{flag}: {message[:1].lower()}{message[1:]}, got {first['input']!r}") from None


def _warn_of_unknown(environment: Mapping[str, str]) -> None:
    """Log each variable that looks like a setting and is none, with the settings that it may be meant for.

    It is no error: a platform adds variables that the person who deploys the service did not choose.
    """
    words = {name.upper() for name in Settings.model_fields}
    known = {f"{PREFIX}{word}" for word in words}
    for name in sorted(environment):
        if name.upper().startswith(PREFIX) and name.upper() not in known and not _FROM_LINKS.fullmatch(name):
            near = get_close_matches(name.upper().removeprefix(PREFIX), words, 2)
            meant = f"; did you mean {' or '.join(PREFIX + word for word in near)}?" if near else ""
            _log.warning("event=unknown_variable the environment variable %s is not a setting%s", name, meant)
