"""How many rows of a size share a batch, and what one of them costs beside those of the golden sizes."""

import math
from pathlib import Path

import pytest

from open_kit import PICTURES, bundled, segmentation
from service.batching.job import ONE_SIZE
from service.contract import sizes as contract_sizes
from service.contract.bundle import open_bundle
from service.contract.manifest import Manifest
from service.engine import row_sizes
from service.engine.row_sizes import RowSizes
from tiny_nets import digits_net, write_bundle

BUCKETS = (1, 2, 4, 8, 16, 32, 64)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    folder = tmp_path_factory.mktemp("open") / "models"
    return open_bundle(bundled(segmentation(), folder, "net", *PICTURES)).manifest


@pytest.mark.parametrize("power", [1, 2])
def test_the_cost_of_a_size_between_is_that_of_its_power(manifest: Manifest, power: int) -> None:
    found = RowSizes(manifest, BUCKETS)
    golden = [group.sizes for group in manifest.golden_sizes or []]
    seconds = [math.prod(at.values()) ** power for at in golden]
    found.learn(golden, [{1: one, 64: 9 * one} for one in seconds])
    middle = seconds[len(seconds) // 2]
    for height, width in ((8, 8), (12, 24), (20, 8), (24, 32)):
        assert found((height, width)).cost == pytest.approx((height * width) ** power / middle)


def test_large_rows_share_small_batches(manifest: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contract_sizes, "BATCH_BYTES", 5 * 3 * 24 * 32 * 4)
    found = RowSizes(manifest, BUCKETS)
    assert [found(key).max_rows for key in ((24, 32), (8, 8), (24, 16))] == [4, 32, 8]
    monkeypatch.setattr(contract_sizes, "BATCH_BYTES", 1)
    assert RowSizes(manifest, BUCKETS)((24, 32)).max_rows == 1


def test_what_is_kept_has_a_bound(manifest: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_sizes, "MAX_KEPT", 3)
    found = RowSizes(manifest, BUCKETS)
    for width in range(8, 33, 8):
        assert found((8, width)).key == (8, width)
    assert len(found._kept) <= 3


def test_a_net_of_fixed_sizes_has_one(tmp_path: Path) -> None:
    manifest = open_bundle(write_bundle(tmp_path / "1", digits_net())).manifest
    assert RowSizes(manifest, BUCKETS)(()) is ONE_SIZE
