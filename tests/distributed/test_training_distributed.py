"""Several processes and one give the same net: shares, sums, and the messages between processes."""

import socket
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, distributed, nn
from torch.distributed import TCPStore

from distributed_kit import here
from training.distributed import launch as launch_module
from training.distributed import rendezvous
from training.distributed.group import Group
from training.distributed.launch import GroupError, Launch, LostError, read_launch


class HalfUsed(nn.Module):
    """A net with a parameter that no answer depends on."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused = nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.used(x)


def gradients_of_half_used() -> dict[str, Tensor | None]:
    group = here()
    torch.manual_seed(0)
    net, rows = HalfUsed(), torch.arange(24.0).view(6, 4)
    forward = group.wrap(net, rows[:1])
    for _ in range(2):  # DistributedDataParallel would complain in the second step only
        net.zero_grad()
        own = group.share(rows)
        group.weigh(forward(own).square().mean(), len(own), len(rows)).backward()
    assert net.training, "looking for unused parameters left the mode as it was"
    return {name: parameter.grad for name, parameter in net.named_parameters()}


def test_a_parameter_that_nothing_depends_on_does_no_harm(two):
    expected = gradients_of_half_used()
    assert expected["unused.weight"] is None
    for found in two(gradients_of_half_used):
        assert found["unused.weight"] is None
        torch.testing.assert_close(found["used.weight"], expected["used.weight"])


def shares_of(num_rows: int) -> tuple[Tensor, Tensor, Tensor]:
    group = here()
    rows = torch.arange(num_rows)
    own = group.share(rows)
    loss = group.weigh((own + 1.0).mean(), len(own), num_rows)
    return own, group.mean(loss), group.total(torch.tensor(len(own)))


@pytest.mark.parametrize("num_rows", [3, 7, 8, 9])
def test_shares_are_all_rows_once_and_their_means_the_mean_of_all(three, num_rows):
    answers = three(shares_of, num_rows)
    assert sorted(torch.cat([own for own, _, _ in answers]).tolist()) == list(range(num_rows))
    for own, mean, total in answers:
        assert len(own) in (num_rows // 3, num_rows // 3 + 1)
        torch.testing.assert_close(mean, torch.tensor((num_rows + 1) / 2))
        assert total == num_rows


def ask_first(content: bytes | None) -> bytes | None:
    group = here()
    return group.broadcast(lambda: content if group.is_first else pytest.fail("only the first one is asked"))


@pytest.mark.parametrize("content", [None, b"", b"\x00checkpoint\xff" * 1000], ids=["none", "empty", "some"])
def test_what_the_first_process_reads_all_get(three, content):
    assert three(ask_first, content) == [content] * 3


def write_or_find(path: Path) -> bool:
    group = here()
    with group.first_per_machine():
        if group.local_rank == 0:
            time.sleep(0.2)  # long enough for the others to come by, if nothing held them
            path.write_text("here")
        return path.exists()


def test_one_process_of_a_machine_goes_first(three, tmp_path):
    assert three(write_or_find, tmp_path / "download") == [True] * 3


def require_same(facts: list[dict[str, Any]]) -> str:
    try:
        here().require_same(facts[distributed.get_rank()])
    except GroupError as error:
        return str(error)
    return ""


def test_a_process_with_other_flags_or_data_is_told_which(three):
    same, other = {"batch_size": 64, "shape": (1, 28, 28)}, {"batch_size": 32, "shape": (1, 28, 28)}
    told = "batch_size is 32 here and 64 in the first process: start all with the same flags and data"
    assert three(require_same, [same, dict(same), other]) == ["", "", told]


def test_a_process_alone_needs_nobody():
    group, loss = Group(), torch.ones(())
    assert torch.equal(group.share(torch.arange(5)), torch.arange(5))
    assert group.weigh(loss, 7, 7) is group.mean(loss) is group.total(loss) is loss
    assert group.broadcast(lambda: b"mine") == b"mine"
    net = HalfUsed()
    assert group.wrap(net, torch.zeros(1, 4)) is net
    group.require_same({"seed": 1})
    with group.first_per_machine():
        assert not distributed.is_initialized()


TORCHRUN = {"RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "0", "TORCHELASTIC_MAX_RESTARTS": "3"}


def test_the_launch_is_read_from_what_torchrun_sets():
    assert read_launch({"HOME": "/"}) == Launch()
    assert read_launch(TORCHRUN) == Launch(rank=1, size=4, by_torchrun=True, max_restarts=3)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"WORLD_SIZE": "1"}, "RANK must be below WORLD_SIZE, got 1 and 1"),
        ({"WORLD_SIZE": "many"}, "WORLD_SIZE must be a number, got 'many'"),
        ({"LOCAL_RANK": None}, "LOCAL_RANK must be a number, got None"),
    ],
)
def test_a_launch_that_does_not_fit_is_one_sentence(changes, told):
    variables = {name: text for name, text in (TORCHRUN | changes).items() if text is not None}
    with pytest.raises(GroupError, match=told):
        read_launch(variables)


@pytest.mark.parametrize(
    ("rank", "error", "pauses", "said"),
    [
        (0, GroupError("no such data"), 0, "training: no such data\n"),
        (2, GroupError("no such data"), 1, "training, process 2: no such data\n"),
        (0, LostError("gone"), 1, "training: gone\n"),
    ],
)
def test_who_fails_alone_leaves_the_first_word_to_others(monkeypatch, capsys, rank, error, pauses, said):
    slept = []
    monkeypatch.setattr(launch_module.time, "sleep", slept.append)
    Launch(rank=rank, size=4).report(error)
    assert slept == [launch_module.PATIENCE_SECONDS] * pauses
    assert capsys.readouterr().err == said


def test_a_store_that_remembers_the_dead_leads_to_the_living(monkeypatch):
    """After a restart torchrun's store still names a closed port, until process 0 is back."""
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    shared = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    monkeypatch.setattr(rendezvous, "rendezvous", lambda method: iter([(shared, 0, 2)]))
    served = []
    monkeypatch.setattr(
        rendezvous.time, "sleep", lambda seconds: served.append(rendezvous.open_store(Launch(size=2)))
    )
    with socket.socket() as dead:
        dead.bind(("127.0.0.1", 0))  # bound, but it does not listen
        shared.set(rendezvous.PORT_KEY, str(dead.getsockname()[1]))
        found = rendezvous.open_store(Launch(rank=1, size=2))
    assert len(served) == 1, "it asked the dead one once, and then the living"
    served[0].set("word", "here")
    assert found.get("word") == b"here"
