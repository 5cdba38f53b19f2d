"""Flags and environment variables: what is wrong is told by its name."""

import os
from pathlib import Path

import pytest

from service.cgroup import usable_cores
from service.read_settings import SettingsError, read_settings
from service.settings import Settings


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("FOLDSERVE_")]:
        monkeypatch.delenv(name)


def test_defaults() -> None:
    settings = read_settings([])
    assert settings.models == Path("models")
    assert (settings.host, settings.port, settings.device) == ("127.0.0.1", 8000, "auto")
    assert settings.threads == usable_cores()
    assert settings.buckets == (1, 2, 4, 8, 16, 32, 64)
    assert settings.max_body_bytes == 64 * 2**20


def test_flags_beat_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOLDSERVE_PORT", "7")
    monkeypatch.setenv("FOLDSERVE_BUCKETS", "1, 4")
    assert read_settings([]).port == 7
    settings = read_settings(["--port", "9", "--max-wait-ms", "2.5", "--buckets=1,8"])
    assert (settings.port, settings.buckets, settings.max_wait_ms) == (9, (1, 8), 2.5)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--port", "x"], "--port (FOLDSERVE_PORT): input should be a valid integer"),
        (["--port", "99999"], "less than or equal to 65535, got '99999'"),
        (["--prt", "9"], "unrecognized arguments: --prt 9 (did you mean --port?)"),
        (["--port"], "expected one argument"),
        (["extra"], "unrecognized arguments: extra"),
        (["--device", "tpu"], "--device (FOLDSERVE_DEVICE): input should be 'auto', 'cpu' or 'cuda'"),
        (["--threads", "0"], "--threads"),
        (["--buckets", "4,2"], "buckets must be ascending numbers"),
        (["--buckets", "0,2"], "buckets must be ascending numbers"),
        (["--buckets", "1,x"], "--buckets"),
        (["--buckets", ""], "--buckets"),
        (["--queue-rows", "10"], "queue_rows must hold at least one batch of 64, got 10"),
        (["--max-body-mb", "nan"], "--max-body-mb"),
        (["--max-wait-ms", "-1"], "--max-wait-ms"),
        (["--log-level", "loud"], "--log-level"),
    ],
)
def test_a_wrong_flag_is_named(flags: list[str], message: str) -> None:
    with pytest.raises(SettingsError) as refused:
        read_settings(flags)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_wrong_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOLDSERVE_THREADS", "many")
    with pytest.raises(SettingsError, match=r"--threads \(FOLDSERVE_THREADS\).*got 'many'"):
        read_settings([])


def test_an_unknown_variable_is_a_warning_with_near_matches(caplog: pytest.LogCaptureFixture) -> None:
    read_settings([], {"FOLDSERVE_PROT": "1", "FOLDSERVE_ZZZ": "2", "OTHER": "3"})
    assert [record.getMessage().split("environment variable ", 1)[1] for record in caplog.records] == [
        "FOLDSERVE_PROT is not a setting; did you mean FOLDSERVE_PORT?",
        "FOLDSERVE_ZZZ is not a setting",
    ]


LINKS = {
    "FOLDSERVE_SERVICE_HOST": "10.0.0.1",
    "FOLDSERVE_SERVICE_PORT_HTTP": "8000",
    "FOLDSERVE_PORT_8000_TCP_ADDR": "10.0.0.1",
    "FOLDSERVE_X_SERVICE_HOST": "10.0.0.2",
    "FOLDSERVE_X_SERVICE_PORT": "8000",
    "FOLDSERVE_X_PORT": "tcp://10.0.0.2:8000",
    "FOLDSERVE_BLUE_GREEN_PORT_8000_TCP": "tcp://10.0.0.2:8000",
}


def test_what_kubernetes_sets_for_services_named_like_us_is_not_ours(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name, value in LINKS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("FOLDSERVE_PORT", "tcp://10.0.0.1:8000")
    assert read_settings([], {**LINKS, "FOLDSERVE_PORT": "tcp://10.0.0.1:8000"}).port == 8000
    assert caplog.records == []


def test_help_shows_an_example_and_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        read_settings(["--help"])
    assert end.value.code == 0
    told = capsys.readouterr().out
    assert "foldserve serve --models models --port 8000" in told
    for name, field in Settings.model_fields.items():
        assert f"--{name.replace('_', '-')}" in told
        assert field.description
