"""The cores that this process may use: by its affinity, and by its container's quota, of cgroups 2 or 1.

In: the files below /sys/fs/cgroup.  Out: cores; a quota is infinite where there is no limit.

    cpu.max              version 2: "QUOTA PERIOD" or "max PERIOD"
    cpu.cfs_quota_us     version 1: QUOTA or -1, with cpu.cfs_period_us
"""

import math
import os
from pathlib import Path, PurePosixPath

ROOT = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")


def cpu_quota(root: Path = ROOT, membership: Path = MEMBERSHIP) -> float:
    """The smallest limit of this process's group and the groups around it, in cores."""
    limits = [math.inf]
    for line in _read(membership).splitlines():
        _, _, named = line.partition(":")
        controllers, _, path = named.partition(":")
        if controllers not in ("", "cpu", "cpu,cpuacct", "cpuacct,cpu"):
            continue
        top = root / controllers if controllers else root
        # A container sees its own group as the root, or the path that it has outside: both are tried.
        for group in (PurePosixPath(path), *PurePosixPath(path).parents):
            limits.append(_limit(top / str(group).lstrip("/")))
    return min(limits)


def usable_cores() -> int:
    """CPU cores that this process may use: by its affinity, and by its container's quota, at least 1."""
    return max(1, int(min(len(os.sched_getaffinity(0)), cpu_quota())))


def _limit(group: Path) -> float:
    quota, _, period = _read(group / "cpu.max").strip().partition(" ")
    if not quota:
        quota, period = (_read(group / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period"))
    if not (quota.isdigit() and period.isdigit() and int(period)):
        return math.inf  # "max", -1, or no such file
    return int(quota) / int(period)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii")
    except (OSError, ValueError):
        return ""
