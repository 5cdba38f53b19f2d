"""The types of a net's inputs that nothing says are found by running, of few inputs and of many."""

import pytest
import torch
from torch import nn

from export.sources.net_inputs import NetInput, inputs_of
from export_kit import assert_refused, run_here
from own_net_kit import offer


class Tables(nn.Module):
    """Embeddings of `num_ids` columns, `num_floats` plain ones, and a mask if there is one."""

    def __init__(self, num_ids: int, num_floats: int, num_masks: int = 0) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(9, 3) for _ in range(num_ids))
        self.first, self.norm = nn.Linear(max(num_floats, 1), 3), nn.BatchNorm1d(3)
        self.counts = (num_ids, num_floats, num_masks)

    def forward(self, *columns):
        ids, floats, masks = (part for part in torch.arange(len(columns)).split(self.counts))
        made = sum(table(columns[place]) for table, place in zip(self.tables, ids, strict=True))
        if len(floats):
            made = made + self.first(torch.stack([columns[place] for place in floats], 1))
        for place in masks:
            made = made.masked_fill(columns[place][:, None], 0.0)
        return self.norm(made)


TYPES = (torch.int64, torch.float32, torch.bool)


@pytest.mark.parametrize(
    "counts", [(4, 0), (7, 0), (0, 7), (3, 3), (12, 0), (0, 26), (2, 1, 1)], ids=lambda counts: str(counts)
)
def test_types_are_found(counts):
    asked = [NetInput(name=f"c{place}") for place in range(sum(counts))]
    taken = inputs_of(Tables(*counts).eval(), asked)
    found = [one.types[0] for one in taken.inputs]
    assert found == [kind for kind, count in zip(TYPES, counts, strict=False) for _ in range(count)]


def test_what_rows_say_comes_first():
    """Ids would run as floats or masks as numbers: the net says nothing against it."""
    said = {"a": torch.int64, "b": torch.bool}
    asked = [NetInput(name=name, types=(kind, torch.float32)) for name, kind in said.items()]
    taken = inputs_of(Anything(), asked)
    assert [one.types[0] for one in taken.inputs] == list(said.values())


class Anything(nn.Module):
    def forward(self, a, b):
        return a * b


class Cast(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.norm = nn.Embedding(9, 3), nn.BatchNorm1d(3)

    def forward(self, user):
        return self.norm(self.table(user.long()))


def test_ids_that_a_forward_casts_are_said_to_need_a_type(tmp_path, monkeypatch):
    offer(monkeypatch, Cast)
    flags = ("mine:make", "--to", tmp_path / "m", "--input-shape", "user=N")
    assert_refused(run_here("bundle", *flags), "say so: --input-type NAME=int64")
    assert run_here("bundle", *flags, "--input-type", "user=int64").returncode == 0
