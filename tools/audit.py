"""Known vulnerabilities in the pinned packages, and secrets in the tracked files.

In: constraints.txt, the files that git tracks.  Out: a line for each check; exit code 1 if any finds one.

    python tools/audit.py

Without a way to the package index the first check is skipped and says so: nothing is known then.
"""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WITHIN_S = 120
NO_SECRETS = "[0-9a-f]{32,128}|BEGIN (PUBLIC|PRIVATE) KEY"  # digests, and the words of a key file's frame


def main() -> int:
    """Run both checks."""
    return max(check_packages(), check_secrets())


def check_packages() -> int:
    """Ask the advisory database about every pin."""
    pins = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line]
    command = [sys.executable, "-m", "pip_audit", "--format", "json", "--progress-spinner", "off"]
    try:
        done = subprocess.run(
            [*command, "--disable-pip", "--no-deps", "--requirement", "/dev/stdin"],
            input="\n".join(pins),
            capture_output=True,
            text=True,
            timeout=WITHIN_S,
            check=False,
        )
        facts = json.loads(done.stdout)["dependencies"]
    except (subprocess.TimeoutExpired, json.JSONDecodeError, KeyError):
        print("packages: skipped, the advisory database cannot be reached from here")
        return 0
    asked = [fact for fact in facts if "skip_reason" not in fact]
    if not asked:
        print(f"packages: skipped, the package index answers for none of {len(pins)} pins from here")
        return 0
    found = [fact for fact in asked if fact.get("vulns")]
    for fact in found:
        names = ", ".join(vulnerability["id"] for vulnerability in fact["vulns"])
        print(f"packages: {fact['name']} {fact['version']}: {names}", file=sys.stderr)
    print(f"packages: {len(found)} of {len(asked)} have known vulnerabilities")
    return int(bool(found))


def check_secrets(root: Path = ROOT) -> int:
    """Scan what git tracks, high-entropy strings and known forms of keys."""
    files = subprocess.run(
        ["git", "ls-files", "*.py", "*.md", "*.toml", "*.yml", "*.yaml", "*.sh", "Dockerfile", "Makefile"],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    ).stdout.split()
    if not files:
        print("secrets: skipped, this folder is no git checkout")
        return 0
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "detect_secrets",
            "scan",
            "--no-verify",
            "--exclude-lines",
            NO_SECRETS,
            *files,
        ],
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
    )
    results = json.loads(done.stdout)["results"]
    for name, secrets in results.items():
        for secret in secrets:
            print(f"secrets: {name}:{secret['line_number']}: {secret['type']}", file=sys.stderr)
    found = sum(map(len, results.values()))
    print(f"secrets: {found} in {len(files)} files")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
