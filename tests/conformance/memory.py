"""What a process and those it started hold in memory, from /proc. In: a pid.  Out: MiB."""

from pathlib import Path

_PROC = Path("/proc")


def _family(pid: int) -> list[int]:
    """The process and all below it."""
    children: dict[int, list[int]] = {}
    for stat in _PROC.glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
        children.setdefault(parent, []).append(int(stat.parent.name))
    family = [pid]
    for member in family:
        family += children.get(member, [])
    return family


def _sum_mb(pid: int, name: str) -> float:
    total = 0
    for member in _family(pid):
        try:
            lines = (_PROC / str(member) / "status").read_text().splitlines()
        except (FileNotFoundError, ProcessLookupError):
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))
    return total / 1024


def resident_mb(pid: int) -> float:
    """Now."""
    return _sum_mb(pid, "VmRSS")


def peak_of_addresses_mb(pid: int) -> float:
    """The most that was ever asked for, whether or not it was used."""
    return _sum_mb(pid, "VmPeak")
