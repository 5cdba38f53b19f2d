"""Whatever happens, in whatever order: every caller gets exactly its own rows, or exactly one clear error.

Random sizes, priorities, timeouts, poison, cancellations, lanes and delays, and a shutdown at any moment,
over engines that are gates and over one that takes its time. What waits for ever, fails.
"""

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from batcher_kit import LARGEST, Asked, GatedEngine, TimedEngine, now, started, submit
from service.batching.batcher import Batcher
from service.batching.execution import Execution
from service.batching.job import BatchResult, Job, Tensors
from service.errors import BadRequest, DeadlinePassed, Draining, ModelFailed, Overloaded

QUEUE_ROWS = 16
SECONDS = {1: 1.0, 2: 1.5, 4: 2.0}


@dataclass(frozen=True, kw_only=True)
class Submit:
    """A caller comes; `comes_again` with one more row as soon as its callback runs."""

    num_rows: int
    priority: int
    timeout_s: float | None
    is_poisoned: bool
    comes_again: bool


@dataclass(frozen=True, kw_only=True)
class Do:
    """What else may happen: a caller hangs up, a batch ends, time passes, the server begins to close."""

    what: str
    number: int


STEPS = st.lists(
    st.one_of(
        st.builds(
            Submit,
            num_rows=st.one_of(st.integers(1, 3), st.integers(1, QUEUE_ROWS + 1)),
            priority=st.sampled_from([0, 0, 1, 2, 3]),
            timeout_s=st.sampled_from([None, None, 0.5, 1.2, 3.0, 8.0]),
            is_poisoned=st.sampled_from([False, False, False, True]),
            comes_again=st.sampled_from([False, False, False, True]),
        ),
        st.builds(
            Do, what=st.sampled_from(["cancel", "cancel", "release", "turn"]), number=st.integers(0, 20)
        ),
        st.builds(Do, what=st.just("pass"), number=st.integers(1, 3)),
        st.builds(Do, what=st.sampled_from(["turn", "close"]), number=st.integers(0, 3)),
    ),
    max_size=40,
)


class Watched:
    """An engine, and how much it was given at once."""

    def __init__(self, engine: GatedEngine) -> None:
        self.engine = engine
        self.most_at_once = 0
        self._num_running = 0

    async def __call__(self, jobs: Sequence[Tensors], num_lanes: int) -> BatchResult:
        self._num_running += 1
        self.most_at_once = max(self.most_at_once, self._num_running)
        try:
            return await self.engine(jobs)
        finally:
            self._num_running -= 1

    def inline(self, jobs: Sequence[Tensors]) -> BatchResult:
        assert self._num_running == 0, "a lane's buffers are in use"
        return self.engine.inline(jobs)


@dataclass
class Caller:
    """What one caller sent, and what may become of it."""

    asked: Asked
    values: list[float]
    step: Submit
    is_cancelled: bool = False


@dataclass
class World:
    """A batcher, its engine, and all accepted callers."""

    engine: GatedEngine
    batcher: Batcher
    callers: list[Caller] = field(default_factory=list)
    next_value: int = 0
    closing: asyncio.Task[None] | None = None
    may_give_up: bool = False
    wrong: list[AssertionError] = field(default_factory=list)

    @property
    def jobs(self) -> list[Job]:
        return [caller.asked.job for caller in self.callers]

    def come(self, step: Submit) -> None:
        values = [float(self.next_value + index) for index in range(step.num_rows)]
        self.next_value += step.num_rows
        sent = [math.nan, *values[1:]] if step.is_poisoned else values
        is_long = step.num_rows > LARGEST
        waiting, running = self.batcher.waiting_rows, self.batcher.running_rows
        beside = waiting if is_long else sum(one.waiting_rows for one in self.jobs if not one.is_long)
        try:
            asked = submit(self.batcher, *sent, priority=step.priority, timeout_s=step.timeout_s)
        except BadRequest:
            assert step.num_rows > QUEUE_ROWS
        except DeadlinePassed:
            assert step.timeout_s is not None
        except Overloaded:
            is_full = beside + step.num_rows > QUEUE_ROWS
            assert is_full or (step.timeout_s is not None and waiting + running > 0)
        except Draining:
            assert self.closing is not None
        else:
            assert step.num_rows <= QUEUE_ROWS
            assert beside + step.num_rows <= QUEUE_ROWS
            self.callers.append(Caller(asked, values, step))
            if step.comes_again:
                asked.then = self._come_again

    def _come_again(self) -> None:
        try:
            self.come(Submit(num_rows=1, priority=1, timeout_s=None, is_poisoned=False, comes_again=False))
        except AssertionError as error:  # the batcher would treat it as a callback's error
            self.wrong.append(error)

    async def do(self, step: Do) -> None:
        if step.what == "cancel" and step.number < len(self.callers):
            caller = self.callers[step.number]
            caller.is_cancelled = caller.is_cancelled or not caller.asked.future.done()
            self.batcher.cancel(caller.asked.job)
        elif step.what == "release":
            self.engine.release(step.number % 3 + 1)
        elif step.what == "pass":
            await asyncio.sleep(step.number / 2)
        elif step.what == "turn":
            for _ in range(step.number % 4):
                await asyncio.sleep(0)
        elif step.what == "close" and self.closing is None:
            timeout_s = [None, 0, 0.7, 3][step.number]
            self.may_give_up = timeout_s is not None
            self.closing = asyncio.get_running_loop().create_task(self.batcher.close(timeout_s))
            await asyncio.sleep(0)

    def check(self, caller: Caller) -> None:
        """This caller's callback ran once, with what is true."""
        assert caller.asked.future.done() != caller.is_cancelled, "ended, unless cancelled"
        assert caller.asked.num_ends == (not caller.is_cancelled)
        if caller.is_cancelled:
            return
        match caller.asked.future.exception():
            case None:
                assert not caller.step.is_poisoned
                assert caller.asked.future.result() == [2 * value for value in caller.values]
            case ModelFailed():
                assert caller.step.is_poisoned
            case DeadlinePassed():
                assert caller.step.timeout_s is not None
                assert now() >= caller.asked.job.submitted_at + caller.step.timeout_s
            case error:
                assert isinstance(error, Draining)
                assert self.may_give_up


@settings(max_examples=400)
@given(
    steps=STEPS,
    lanes=st.integers(1, 3),
    max_wait_s=st.sampled_from([0.0, 0.0, 0.8]),
    is_timed=st.booleans(),
    knows_curve=st.booleans(),
    scale=st.sampled_from([1.0, 1.0, 0.003, 0.0002]),  # of the curve: long, handed over ahead, run in place
    may_run_inline=st.booleans(),
)
async def test_every_caller_gets_exactly_its_own_rows_or_one_error(
    steps: list[Submit | Do],
    lanes: int,
    max_wait_s: float,
    is_timed: bool,
    knows_curve: bool,
    scale: float,
    may_run_inline: bool,
) -> None:
    scaled = {bucket: seconds * scale for bucket, seconds in SECONDS.items()}
    at_once = lanes if scale == 1 else lanes + 1
    tasks_before = asyncio.all_tasks()
    seen: list[Execution] = []
    engine = TimedEngine(scaled, lanes) if is_timed else GatedEngine(seconds=scaled)
    watched = Watched(engine)
    batcher = started(
        watched,
        run_inline=watched.inline if may_run_inline else None,
        seconds=scaled if knows_curve else None,
        lanes=lanes,
        max_wait_s=max_wait_s,
        observe=seen.append,
    )
    world = World(engine, batcher)
    for step in steps:
        if isinstance(step, Submit):
            world.come(step)
        else:
            await world.do(step)
        assert 0 <= batcher.waiting_rows <= 2 * QUEUE_ROWS
        assert 0 <= batcher.running_rows <= LARGEST * at_once
    if world.closing is None:
        world.closing = asyncio.get_running_loop().create_task(batcher.close())
    engine.release(10_000)
    await world.closing
    assert (batcher.waiting_rows, batcher.running_rows) == (0, 0)
    for caller in world.callers:
        world.check(caller)
    assert asyncio.all_tasks() == tasks_before, "a task continues after the batcher has closed"
    assert world.wrong == []
    assert watched.most_at_once <= at_once
    assert max(engine.sizes, default=0) <= LARGEST
    assert world.may_give_up or sorted(execution.num_rows for execution in seen) == sorted(engine.sizes)
    strangers = {value for value in engine.ran if not np.isnan(value)} - {
        value for caller in world.callers for value in caller.values
    }
    assert strangers == set()
