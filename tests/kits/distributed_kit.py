"""Real processes in one gloo group, kept warm: a test hands each a function and gets their answers."""

import multiprocessing
import pickle
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed, nn

from training.distributed.group import Group
from training.nets import build_net

SECONDS = 60
Everywhere = Callable[..., list[Any]]


@contextmanager
def processes(num: int) -> Iterator[Everywhere]:
    """`num` processes; calling what comes out runs `function(*arguments)` in each, and returns by rank."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch._dynamo", "training.nets"])  # imported once, whatever `num` is
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        pipes = []
        for rank in range(num):
            ours, theirs = context.Pipe()
            process = context.Process(
                target=_serve, args=(theirs, rank, num, str(Path(folder, "store"))), daemon=True
            )
            process.start()
            theirs.close()
            stack.callback(process.join, SECONDS)
            pipes.append(ours)
        for pipe in pipes:
            stack.callback(pipe.close)

        def everywhere(function: Callable[..., Any], *arguments: Any) -> list[Any]:
            for pipe in pipes:
                pipe.send_bytes(pickle.dumps((function, arguments)))
            answers = []
            for rank, pipe in enumerate(pipes):
                assert pipe.poll(SECONDS), f"process {rank} does not answer"
                answers.append(pickle.loads(pipe.recv_bytes()))
            for answer in answers:
                if isinstance(answer, Exception):
                    raise answer
            return answers

        yield everywhere


def here() -> Group:
    """The group of the process that asks."""
    if not distributed.is_initialized():
        return Group()
    return Group(
        rank=distributed.get_rank(), size=distributed.get_world_size(), local_rank=distributed.get_rank()
    )


def _serve(pipe: Connection, rank: int, num: int, store: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", store=distributed.FileStore(store, num), rank=rank, world_size=num)
    while True:
        try:
            function, arguments = pickle.loads(pipe.recv_bytes())
        except EOFError:
            break
        try:
            answer = function(*arguments)
        except Exception as error:
            answer = error
        pipe.send_bytes(pickle.dumps(answer))  # `send` would share tensors with the others, not copy them
    distributed.destroy_process_group()


class Double(nn.Module):
    """A small net in float64, whatever its rows are: `--net distributed_kit:Double`."""

    def __init__(self, input_shape: tuple[int, int, int], num_classes: int) -> None:
        super().__init__()
        settings = {"input_shape": input_shape, "num_classes": num_classes, "channels": (4, 8), "hidden": 16}
        self.net = build_net("cnn", settings).double()

    def forward(self, rows: Tensor) -> Tensor:
        return self.net(rows.double())
