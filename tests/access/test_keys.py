"""API keys: what a file may say, what a request needs, and that secrets are kept nowhere."""

from pathlib import Path

import pytest

from service.access.__main__ import main
from service.access.keys import ApiKeys, KeyListError, new_key, read_keys, secret_of
from service.errors import Forbidden, Unauthorized


@pytest.fixture
def keys(tmp_path: Path) -> tuple[ApiKeys, dict[str, bytes]]:
    secrets, lines = {}, ["# name  scopes  digest", ""]
    for name, scopes in {"shop": "infer", "ops": "admin,metrics"}.items():
        secret, line = new_key(name, scopes)
        secrets[name] = secret.encode()
        lines.append(line)
    (tmp_path / "keys").write_text("\n".join(lines))
    assert not any(secret.decode() in line for secret in secrets.values() for line in lines)
    return read_keys(tmp_path / "keys"), secrets


def test_a_key_may_do_what_its_scopes_say_and_nothing_else(keys) -> None:
    known, secrets = keys
    key = known.check(secrets["shop"], "infer")
    assert key is not None
    assert key.name == "shop"
    with pytest.raises(Forbidden, match="'shop' does not have the scope 'admin'"):
        known.check(secrets["shop"], "admin")
    assert known.check(secrets["ops"], "admin") == known.check(secrets["ops"], "metrics")


def test_a_wrong_or_missing_key_is_refused(keys) -> None:
    known, secrets = keys
    for secret in (None, b"", b"x", secrets["shop"] + b"x", secrets["shop"][:-1]):
        with pytest.raises(Unauthorized) as refused:
            known.check(secret, "infer")
        assert refused.value.headers == {"www-authenticate": "Bearer"}


def test_without_keys_nothing_is_asked_for() -> None:
    assert ApiKeys().check(None, "infer") is None
    assert not ApiKeys()


@pytest.mark.parametrize(
    ("authorization", "api_key", "secret"),
    [
        (b"Bearer abc", None, b"abc"),
        (b"bearer  abc ", None, b"abc"),
        (b"Basic abc", None, None),
        (b"Bearer", None, None),
        (None, b" abc ", b"abc"),
        (b"Bearer other", b"abc", b"abc"),
        (None, None, None),
    ],
)
def test_where_a_request_carries_its_key(authorization, api_key, secret) -> None:
    assert secret_of(authorization, api_key) == secret


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no keys"),
        ("# nothing", "holds no keys"),
        ("shop infer", "line 1: expected NAME SCOPES SHA256, got 2 words"),
        (f"shop infer {'A' * 64}", "line 1: expected NAME SCOPES SHA256"),
        (f"shop infer,fly {'a' * 64}", "line 1: unknown scope 'fly', expected infer, admin, metrics"),
        (f"a infer {'a' * 64}\na admin {'b' * 64}", "the same name stands there twice"),
        (f"a infer {'a' * 64}\nb admin {'a' * 64}", "the same digest stands there twice"),
    ],
)
def test_a_broken_file_is_named_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "keys").write_text(text)
    with pytest.raises(KeyListError, match=message):
        read_keys(tmp_path / "keys")


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(KeyListError, match="No such file"):
        read_keys(tmp_path / "none")
    (tmp_path / "keys").write_bytes(b"\xff")
    with pytest.raises(KeyListError, match="not UTF-8"):
        read_keys(tmp_path / "keys")


def test_the_command_prints_a_line_that_lets_its_secret_in(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["shop", "--scopes", "infer,metrics"]) == 0
    line, narration = capsys.readouterr()
    (tmp_path / "keys").write_text(line)
    secret = narration.split()[-1]
    assert secret not in line
    key = read_keys(tmp_path / "keys").check(secret.encode(), "metrics")
    assert key is not None
    assert key.name == "shop"


@pytest.mark.parametrize("arguments", [["a b"], ["shop", "--scopes", "fly"], ["shop", "--scopes", ""]])
def test_a_key_that_cannot_be_is_one_sentence(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    line, narration = capsys.readouterr()
    assert line == ""
    assert narration.startswith("error: the new key: ")
    assert narration.count("\n") == 1
