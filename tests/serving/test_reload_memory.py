"""A model that is loaded again and again: what was let go is gone from memory, weights, threads and all."""

from pathlib import Path

import httpx

from control_kit import FLAGS, control
from service_kit import Server, resident_mb, serving, wait_until
from tiny_nets import digits_net, write_bundle

RELOADS = 12
ONE_MODEL_MB = 25  # 6,000 hidden units: 19 MB of weights, and what a session makes of them
GROWTH_MB = 12  # half of one model's weights: that one stays would be seen at the second reload


def threads_of(server: Server) -> int:
    return len(list(Path(f"/proc/{server.process.pid}/task").iterdir()))


def test_case_31_reloads_leave_nothing_behind(tmp_path: Path) -> None:
    big = digits_net(hidden=6000)
    big.tolerance *= 100  # sums of so many products
    write_bundle(tmp_path / "big" / "1", big)
    write_bundle(tmp_path / "small" / "1", digits_net())
    with serving(tmp_path, *FLAGS) as server, httpx.Client(base_url=server.url, timeout=60) as client:
        for _ in range(2):  # what grows once: caches, arenas of threads
            assert control(client, "load", "big").status_code == 200
        before, threads = resident_mb(server), threads_of(server)
        for _ in range(RELOADS):
            assert control(client, "load", "big").status_code == 200
        wait_until(lambda: resident_mb(server) < before + GROWTH_MB, "memory has come back")
        wait_until(lambda: threads_of(server) <= threads, "threads have ended")
        assert control(client, "unload", "big").status_code == 200
        wait_until(
            lambda: resident_mb(server) < before - ONE_MODEL_MB / 2, "the unloaded model's is back too"
        )
