"""`--workers 2`: signals, and an end that leaves nothing.

`case_n` are the cases of docs/failure-cases.md.
"""

import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from service_kit import Server, metric, serving, wait_until, x_request
from tiny_nets import busy_net, write_bundle
from workers_kit import TWO_WORKERS, descendants, is_alive, kill, one_client_each, workers_of


def test_killing_the_parent_ends_the_workers(server: Server) -> None:
    below = descendants(server.process.pid)
    assert len(below) >= 2
    kill(server.process.pid)
    wait_until(lambda: not any(map(is_alive, below)), "the workers have ended")


def test_vector_33_sigterm_answers_what_was_accepted_and_leaves_nothing(
    folder: Path, temporary: Path
) -> None:
    write_bundle(folder / "models" / "busy" / "1", busy_net())
    long = x_request([12000.0], shape=[1, 1])
    environment = {"TMPDIR": str(temporary)}
    with serving(folder / "models", *TWO_WORKERS, environment=environment) as server:
        below = descendants(server.process.pid)
        assert list(temporary.glob("foldserve-*"))
        with one_client_each(server) as clients, ThreadPoolExecutor(4) as threads:
            futures = [
                threads.submit(client.post, "/v2/models/busy/infer", json=long) for client in clients.values()
            ]
            with httpx.Client(base_url=server.url, timeout=60) as asking:
                running = 'foldserve_running_rows{model="busy",version="1"}'
                wait_until(lambda: metric(asking, running) == 2, "both are in an engine")
            server.terminate()
            answers = [future.result() for future in futures]
        assert [answer.status_code for answer in answers] == [200, 200]
        assert [answer.json()["outputs"][0]["data"] for answer in answers] == [[12000.0], [12000.0]]
        assert server.wait() == 0
        assert sum("event=stopped" in line for line in server.lines) == 2
        assert not [line for line in server.lines if "Traceback" in line]
    wait_until(lambda: not any(map(is_alive, below)), "no process is left")
    assert list(temporary.glob("foldserve-*")) == []


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_workers_start_is_a_clean_end(folder: Path, temporary: Path, sig: int) -> None:
    server = Server(folder / "models", *TWO_WORKERS, environment={"TMPDIR": str(temporary)})
    try:
        wait_until(lambda: len(workers_of(server)) == 2, "both were started")
        below = descendants(server.process.pid)
        server.terminate(sig)
        assert server.wait() == 0
        wait_until(lambda: not any(map(is_alive, below)), "no process is left")
        assert list(temporary.glob("foldserve-*")) == []
    finally:
        server.close()


def test_a_signal_while_a_worker_is_replaced_is_a_clean_end(server: Server) -> None:
    (victim, _) = workers_of(server)
    kill(victim)
    server.wait_for("event=worker_died")
    server.terminate()
    assert server.wait() == 0


def test_a_second_signal_ends_everything_at_once(folder: Path) -> None:
    write_bundle(folder / "models" / "busy" / "1", busy_net())
    with serving(folder / "models", *TWO_WORKERS) as server:
        below = descendants(server.process.pid)
        with httpx.Client(base_url=server.url, timeout=60) as client, ThreadPoolExecutor(1) as threads:
            endless = threads.submit(
                client.post, "/v2/models/busy/infer", json=x_request([1e7], shape=[1, 1])
            )
            with httpx.Client(base_url=server.url, timeout=60) as asking:
                running = 'foldserve_running_rows{model="busy",version="1"}'
                wait_until(lambda: metric(asking, running) == 1, "it is in the engine")
            server.terminate()
            wait_until(lambda: sum("event=stopped" in line for line in server.lines) == 1, "one has stopped")
            server.terminate()
            assert isinstance(endless.exception(), httpx.TransportError)
        assert server.wait() != 0
    wait_until(lambda: not any(map(is_alive, below)), "no process is left")
