"""What does a well-behaved client notice while another one attacks?  About 15 seconds for each attack.

In: the digits model (`make model`).  Out: a Markdown table on stdout; what misses a bar is bold in it.

    python -m benchmarks.attacks                           # every attack
    python -m benchmarks.attacks --only json,scans         # a kind of attacks, and one

Each attack meets a fresh server with default limits, by 4 attackers that repeat it, with less priority than
everything else: they would be on other machines. Measured are p99 of the well-behaved client, its slowest
answer to a health request, the memory that the server and its children take beyond the quiet server, the
seconds until they do nothing any more after the attackers have hung up, and, under attack again, the seconds
from SIGTERM to the end.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.attacks.attack import Attack
from benchmarks.attacks.attackers import Attackers
from benchmarks.attacks.attacks import ATTACKS, KINDS, chosen
from benchmarks.attacks.processes import MemoryWatch
from benchmarks.attacks.server import Server
from benchmarks.common import cpu_model, new_parser

P99_RATIO, HEALTH_MS, MEMORY_MB, LEFT_S, END_S = 10.0, 100.0, 512.0, 1.0, 32.0  # the bars
WARM_S = 0.2  # what is imported with the first requests
BEFORE_END_S = 1.0
HEAD = "| attack | infer p99, ms | /predict p99, ms | health, ms | memory, MiB | left, s | end, s | answers |"
RULE = "| --- | --- | --- | --- | --- | --- | --- | --- |"


def measure(attack: Attack, models: Path, cache: Path, seconds: float) -> str:
    """A row of the table."""
    with Server(models, cache) as server:
        server.neighbour(WARM_S)
        quiet = server.neighbour(seconds / 2)
        with MemoryWatch(server.pid) as memory, Attackers(server.port, attack) as attackers:
            try:
                attacked = server.neighbour(seconds)
            except subprocess.CalledProcessError as error:
                return f"| {attack.name} | **{error.stderr.decode()[-200:].strip()}** |" + " |" * 6
        left_s = server.busy_s()
        with Attackers(server.port, attack):
            time.sleep(BEFORE_END_S)
            end_s = server.terminate()
    cells = [
        attack.name,
        _ratio(quiet["infer"], attacked["infer"]),
        _ratio(quiet["predict"], attacked["predict"]),
        f"{max(quiet['health']):.0f} → {_bar(max(attacked['health']), HEALTH_MS, 0)}",
        f"+{_bar(memory.peak_mb - memory.quiet_mb, MEMORY_MB, 0)}",
        _bar(left_s, LEFT_S),
        _bar(end_s, END_S),
        ", ".join(f"{count} × {answer}" for answer, count in attackers.answers.most_common(3)),
    ]
    return f"| {' | '.join(cells)} |"


def _ratio(quiet_ms: list[float], attacked_ms: list[float]) -> str:
    quiet, attacked = _p99(quiet_ms), _p99(attacked_ms)
    return f"{quiet:.1f} → {attacked:.1f} ({_bar(attacked / quiet, P99_RATIO)} ×)"


def _p99(values: list[float]) -> float:
    return sorted(values)[int(0.99 * (len(values) - 1))]


def _bar(value: float, limit: float, digits: int = 1) -> str:
    """The number, in bold if it is over its limit."""
    return f"{value:.{digits}f}" if value <= limit else f"**{value:.{digits}f}**"


def main() -> None:
    """Measure, one attack after another."""
    parser = new_parser(sys.modules[__name__])
    parser.add_argument("--models", type=Path, default=Path("models"), help="folder with a model digits")
    parser.add_argument("--only", help=f"kinds and attacks: {', '.join([*KINDS, *ATTACKS])}")
    parser.add_argument("--seconds", type=float, default=6.0, help="of each attack")
    arguments = parser.parse_args()
    try:
        names = chosen(arguments.only)
    except ValueError as error:
        parser.error(str(error))
    load = os.getloadavg()[0]
    print(f"{cpu_model()}, {len(os.sched_getaffinity(0))} cores, load {load:.1f} before the first\n")
    print(HEAD, RULE, sep="\n", flush=True)
    with tempfile.TemporaryDirectory(prefix="foldserve-attacks-") as cache:
        for name in names:
            print(measure(ATTACKS[name](), arguments.models, Path(cache), arguments.seconds), flush=True)


if __name__ == "__main__":
    main()
