"""`make check` audits: a planted secret is found, and what cannot be asked is said to be skipped."""

import importlib.util
import subprocess
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def audit() -> ModuleType:
    spec = importlib.util.spec_from_file_location("audit", ROOT / "tools" / "audit.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_planted_secret_is_found(
    audit: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    assert audit.check_secrets(tmp_path) == 0
    (tmp_path / "settings.py").write_text("host = 'localhost'\ndigest = '" + "0a1b" * 16 + "'\n")
    subprocess.run(["git", "add", "."], cwd=tmp_path, check=True)
    assert audit.check_secrets(tmp_path) == 0
    (tmp_path / "settings.py").write_text(f"key = '{'AKIA' + 'QWERTYUIOP234567'}'\n")
    assert audit.check_secrets(tmp_path) == 1
    assert "settings.py:1: AWS Access Key" in capsys.readouterr().err


def test_packages_are_asked_about_or_skipped_with_the_reason(
    audit: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def answers(stdout: str) -> None:
        done = subprocess.CompletedProcess([], 0, stdout, "")
        monkeypatch.setattr(audit.subprocess, "run", lambda *args, **options: done)

    answers('{"dependencies": [{"name": "a", "version": "1", "vulns": [{"id": "CVE-1"}]}]}')
    assert audit.check_packages() == 1
    answers('{"dependencies": [{"name": "a", "version": "1", "vulns": []}]}')
    assert audit.check_packages() == 0
    answers('{"dependencies": [{"name": "a", "skip_reason": "not found"}]}')
    assert audit.check_packages() == 0
    answers("")
    assert audit.check_packages() == 0
    told = capsys.readouterr()
    assert told.err == "packages: a 1: CVE-1\n"
    assert told.out.splitlines()[1:] == [
        "packages: 0 of 1 have known vulnerabilities",
        *[line for line in told.out.splitlines() if "skipped" in line],
    ]
    assert told.out.count("skipped") == 2
