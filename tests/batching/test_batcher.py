"""The queue alone, without ONNX Runtime: every caller gets exactly its own rows, or one clear error."""

import asyncio
import math
from collections.abc import Sequence

import numpy as np
import pytest

from batcher_kit import LARGEST, GatedEngine, TimedEngine, now, rows, started, submit, ys
from service.batching.job import BatchResult, Job, Tensors
from service.errors import ModelFailed


async def test_a_lone_job_runs_at_once() -> None:
    engine = GatedEngine(is_open=True)
    batcher = started(engine)
    assert await ys(batcher, submit(batcher, 1, 2)) == [2, 4]
    await batcher.close()


async def test_what_arrives_in_one_turn_of_the_loop_runs_together() -> None:
    engine = GatedEngine(is_open=True)
    batcher = started(engine)
    jobs = [submit(batcher, value) for value in (1, 2, 3)]
    assert (engine.batches, batcher.waiting_rows) == ([], 3)
    assert [await ys(batcher, job) for job in jobs] == [[2], [4], [6]]
    assert engine.batches == [[[1], [2], [3]]]
    await batcher.close()


@pytest.mark.parametrize(
    ("lanes", "sizes"),
    [(1, [4, 4, 1]), (2, [4, 4, 1]), (2, [3, 3]), (2, [2, 1]), (3, [3, 3, 3]), (3, [2, 2]), (9, [1] * 9)],
)
async def test_what_waits_is_shared_out_fairly_over_the_lanes(lanes: int, sizes: list[int]) -> None:
    engine = GatedEngine()
    batcher = started(engine, lanes=lanes)
    jobs = [submit(batcher, value) for value in range(sum(sizes))]
    engine.release(len(sizes))
    assert [await ys(batcher, job) for job in jobs] == [[2 * value] for value in range(sum(sizes))]
    assert engine.sizes == sizes
    await batcher.close()


@pytest.mark.parametrize(
    ("seconds", "sizes"), [(0.0001, [4, 1]), (0.01, [3, 2]), (None, [3, 2])], ids=["short", "long", "unknown"]
)
async def test_a_second_lane_is_woken_only_for_rows_that_are_worth_it(
    seconds: float | None, sizes: list[int]
) -> None:
    engine = GatedEngine()
    curve = {1: seconds, 2: 1.5 * seconds, 4: 2 * seconds} if seconds else None
    batcher = started(engine, seconds=curve, lanes=2)
    jobs = [submit(batcher, value) for value in range(sum(sizes))]
    await asyncio.sleep(1)
    assert engine.sizes == (sizes[:1] if seconds == 0.0001 else sizes)
    engine.release(2)
    assert [await ys(batcher, job) for job in jobs] == [[2 * value] for value in range(sum(sizes))]
    assert engine.sizes == sizes
    await batcher.close()


async def test_a_job_over_its_lanes_share_runs_all_the_same() -> None:
    engine = GatedEngine(is_open=True)
    batcher = started(engine, lanes=4)
    assert await ys(batcher, submit(batcher, 1, 2, 3, 4)) == [2, 4, 6, 8]
    assert engine.sizes == [4]
    await batcher.close()


@pytest.mark.parametrize("lanes", [1, 2, 3])
async def test_as_many_batches_run_at_once_as_there_are_lanes(lanes: int) -> None:
    engine = GatedEngine()
    batcher = started(engine, lanes=lanes)
    jobs = [submit(batcher, value) for value in range(4 * LARGEST)]
    for left in (4, 3, 2, 1):
        await asyncio.sleep(1)
        assert len(engine.batches) == min(4, 4 - left + lanes)
        assert batcher.running_rows == LARGEST * min(lanes, left)
        assert batcher.waiting_rows == LARGEST * max(0, left - lanes)
        engine.release()
    assert [await ys(batcher, job) for job in jobs] == [[2 * value] for value in range(4 * LARGEST)]
    await batcher.close()
    assert (batcher.running_rows, batcher.waiting_rows) == (0, 0)


async def test_the_next_batch_is_handed_over_before_answers_are_dealt() -> None:
    handed: list[asyncio.Future[BatchResult]] = []
    seen: list[tuple[int, int]] = []

    def engine(jobs: Sequence[Tensors], num_lanes: int) -> asyncio.Future[BatchResult]:
        handed.append(asyncio.get_running_loop().create_future())
        return handed[-1]

    batcher = started(engine)

    def record(job: Job) -> None:
        seen.append((len(handed), batcher.running_rows))

    for value in range(2 * LARGEST):
        batcher.submit(rows(value), 1, on_end=record)
    for batch in range(2):
        await asyncio.sleep(1)
        handed[batch].set_result(BatchResult(answers={"y": np.zeros(LARGEST)}, begun=now()))
    await batcher.close()
    assert seen == [(2, LARGEST)] * LARGEST + [(2, 0)] * LARGEST


async def test_case_20_batches_that_end_in_another_order_answer_their_own_callers() -> None:
    gates = {value: asyncio.Event() for value in (0.0, 6.0)}

    async def engine(jobs: Sequence[Tensors], num_lanes: int) -> BatchResult:
        await gates[float(jobs[0]["x"][0])].wait()
        return BatchResult(answers={"y": np.concatenate([job["x"] for job in jobs]) * 2}, begun=now())

    batcher = started(engine, lanes=2)
    long, mate = submit(batcher, *range(6)), submit(batcher, 6)
    await asyncio.sleep(1)
    gates[6.0].set()
    assert await ys(batcher, mate) == [12]
    assert not long.future.done()
    gates[0.0].set()
    assert await ys(batcher, long) == [0, 2, 4, 6, 8, 10]
    await batcher.close()


async def test_case_20_a_job_knows_how_long_it_waited_and_ran() -> None:
    seconds = {1: 1.0, 2: 2.0, 4: 3.0}
    batcher = started(TimedEngine(seconds), seconds=seconds)
    asked = [submit(batcher, *range(4)), submit(batcher, 9), submit(batcher, *range(6))]
    for job in asked:
        await ys(batcher, job)
    measured = [(job.job.queue_s, job.job.compute_s) for job in asked]
    assert measured == [pytest.approx(pair) for pair in [(0, 3), (3, 1), (4, 5)]]
    await batcher.close()


async def test_asking_waits_for_the_job_and_raises_its_error() -> None:
    batcher = started(GatedEngine(is_open=True))
    job = await batcher.ask(rows(1, 2), 2)
    assert job.answers is not None
    assert job.answers["y"].tolist() == [2, 4]
    with pytest.raises(ModelFailed, match="poison"):
        await batcher.ask(rows(math.nan), 1)
    await batcher.close()


async def test_the_callback_gets_the_job_itself() -> None:
    ended: list[Job] = []
    batcher = started(GatedEngine(is_open=True))
    job = batcher.submit(rows(1), 1, on_end=ended.append)
    assert ended == []
    await batcher.close()
    assert ended == [job]
