"""A checkpoint with something in each of its parts, and files with other things in them."""

from pathlib import Path
from typing import Any

import torch

from training.batchnorm.report import BatchNormLayer, BatchNormReport
from training.data import DataFacts
from training.loop.state import State
from training.nets import build_net, initialize
from training.runs.checkpoint import Checkpoint, Resume

FACTS = DataFacts(
    name="digits", labels=list("0123456789"), input_shape=(1, 28, 28), mode="L", mean=[0.13], std=[0.31]
)
SETTINGS: dict[str, Any] = {"input_shape": (1, 28, 28), "num_classes": 10, "channels": (4, 8), "hidden": 16}


LAYER = BatchNormLayer(
    name="blocks.1",
    channels=4,
    values=640,
    mean_drift=0.25,
    variance_drift=1.5,
    smallest_variance=0.125,
    near_zero_variance=0,
    dead_gamma=1,
    negative_gamma=2,
)
REPORT = BatchNormReport(
    rows=64,
    accuracy_by_batch=0.75,
    accuracy_by_running=0.5,
    accuracy_recalibrated=None,
    layers=[LAYER],
)


def new_checkpoint() -> Checkpoint:
    """Of an untrained CNN, with running statistics worth keeping; the same each time."""
    chance = torch.Generator().manual_seed(1)
    net = build_net("cnn", SETTINGS)
    initialize(net, chance)
    net.train()(torch.randn(16, 1, 28, 28, generator=chance))  # running statistics worth keeping
    return Checkpoint(
        net_name="cnn",
        net_settings=SETTINGS,
        state_dict=net.state_dict(),
        seed=3,
        epoch=2,
        metrics={"epoch": 2, "held_out_accuracy": 0.5},
        data=FACTS,
        held_out_pixels=torch.randint(0, 256, (50, 1, 28, 28), dtype=torch.uint8, generator=chance),
        held_out_labels=torch.arange(50) % 10,
        batchnorm=REPORT,
        resume=Resume(
            threads=2,
            config={"epochs": 4},
            history=[{"epoch": 1}, {"epoch": 2}],
            state=State(
                optimizer={"state": {0: {"momentum_buffer": torch.ones(3)}}, "param_groups": []},
                scaler={"scale": 1024.0},
                weights={"head.0.weight": torch.ones(2)},
                generators={"order": chance.get_state()},
            ),
        ),
    )


def rewrite(path: Path, **changes: Any) -> None:
    """Put other values into the file as it lies there; `...` leaves a key out."""
    record = torch.load(path, weights_only=True) | changes
    torch.save({key: value for key, value in record.items() if value is not ...}, path)
