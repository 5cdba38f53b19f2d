"""One run and its folder: begin or go on, fit, and leave three files whole after every epoch.

In: a folder, flags, a device.  Out: the facts of each epoch, and on the disk

    checkpoint.pt     everything, see checkpoint.py
    metrics.jsonl     one line an epoch; no times in it, so a resumed run leaves the same lines
    curves.png        drawn when the run ends or is interrupted
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from training import nets
from training.batchnorm import find_batchnorms
from training.checkpoint import Checkpoint, CheckpointError, Resume, load_checkpoint, save_checkpoint
from training.config import ConfigError, FitConfig
from training.curves import draw_curves
from training.data import Split, load_split, sample_held_out
from training.errors import TrainingError
from training.files import OutputError, prepare_folder, publish
from training.fit import STREAMS, Epoch, EpochFacts, Start, count_steps, fit, seeded_generator

CHECKPOINT, METRICS, CURVES = "checkpoint.pt", "metrics.jsonl", "curves.png"
SAMPLE_ROWS = 100


class DeviceError(TrainingError):
    """A device that was asked for and is not there."""


@dataclass(kw_only=True, eq=False)
class Run:
    """A run about to begin or go on; `history` grows with each epoch."""

    out: Path
    config: FitConfig
    split: Split
    net: nn.Module
    net_settings: dict[str, Any]
    start: Start | None
    history: list[EpochFacts]

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.split.train_labels.device

    def epochs(self) -> Iterator[EpochFacts]:
        """Fit; save after each epoch, then tell its facts."""
        if self.history:
            self._write_metrics()
        try:
            for epoch in fit(self.net, self.split, self.config, self.start):
                save_checkpoint(self.out / CHECKPOINT, self._to_checkpoint(epoch))
                self.history.append(epoch.facts)
                self._write_metrics()
                yield epoch.facts
        finally:
            if self.history:
                title = f"{self.config.net} on {self.split.facts.name}"
                publish(self.out / CURVES, draw_curves(self.history, title))

    def _write_metrics(self) -> None:
        lines = [json.dumps(asdict(facts)) + "\n" for facts in self.history]
        publish(self.out / METRICS, "".join(lines).encode())

    def _to_checkpoint(self, epoch: Epoch) -> Checkpoint:
        pixels, labels = sample_held_out(self.split, SAMPLE_ROWS)
        return Checkpoint(
            net_name=self.config.net,
            net_settings=self.net_settings,
            state_dict=dict(self.net.state_dict()),
            seed=self.config.seed,
            epoch=epoch.facts.epoch,
            metrics=asdict(epoch.facts),
            data=self.split.facts,
            held_out_pixels=pixels,
            held_out_labels=labels,
            resume=Resume(
                config=asdict(self.config),
                threads=torch.get_num_threads(),
                history=[asdict(facts) for facts in (*self.history, epoch.facts)],
                optimizer=epoch.optimizer,
                generators=epoch.generators,
            ),
        )


def open_run(
    out: Path,
    flags: Mapping[str, Any],
    *,
    device: str = "auto",
    resume: bool = False,
    overwrite: bool = False,
) -> Run:
    """Check everything that can be checked before anything long starts; last of all, make the folder."""
    where = find_device(device)
    run = _go_on(out, flags, where) if resume else _begin(out, flags, where, overwrite=overwrite)
    prepare_folder(out)
    return run


def _begin(out: Path, flags: Mapping[str, Any], device: torch.device, *, overwrite: bool) -> Run:
    config, path = FitConfig(**flags), out / CHECKPOINT
    if path.exists() and not overwrite:
        raise OutputError(
            f"{path} is already there: add --resume to go on with it, or --overwrite to lose it"
        )
    given = nets.read_net_settings(config.net, config.net_settings)
    split = load_split(config.data)
    count_steps(split, config)
    settings = nets.settings_for(config.net, split.facts, given)
    net = nets.new_net(config.net, settings, seeded_generator(config.seed, "weights"))
    if (config.positive_gamma or config.recalibrate_bn) and not find_batchnorms(net):
        raise ConfigError(f"positive_gamma and recalibrate_bn need a BatchNorm, and {config.net} has none")
    return Run(
        out=out,
        config=config,
        split=split.to(device),
        net=_place(net, device),
        net_settings=settings,
        start=None,
        history=[],
    )


def _go_on(out: Path, flags: Mapping[str, Any], device: torch.device) -> Run:
    path = out / CHECKPOINT
    checkpoint = load_checkpoint(path)
    try:
        config = FitConfig(**checkpoint.resume.config)
        history = [EpochFacts(**facts) for facts in checkpoint.resume.history]
    except TypeError as error:
        raise CheckpointError(f"{path}: resume: {error}") from None
    if checkpoint.resume.threads < 1:
        raise CheckpointError(f"{path}: threads must be at least 1, got {checkpoint.resume.threads}")
    if len(history) != checkpoint.epoch or checkpoint.resume.generators.keys() != set(STREAMS):
        raise CheckpointError(f"{path} does not hold what a run needs to go on")
    for key, asked in flags.items():
        if (began := getattr(config, key)) != asked:
            raise ConfigError(f"{path} began with {key} {began}, so --resume cannot take {asked}")
    split = load_split(config.data)
    if split.facts != checkpoint.data:
        raise CheckpointError(
            f"{path} was trained on {checkpoint.data}, but {config.data} is now {split.facts}"
        )
    if device.type == "cpu":
        torch.set_num_threads(checkpoint.resume.threads)
    return Run(
        out=out,
        config=config,
        split=split.to(device),
        net=_place(checkpoint.build_net(), device),
        net_settings=checkpoint.net_settings,
        start=Start(
            epochs_done=checkpoint.epoch,
            optimizer=checkpoint.resume.optimizer,
            generators=checkpoint.resume.generators,
        ),
        history=history,
    )


def _place(net: nn.Module, device: torch.device) -> nn.Module:
    """Channels last is the layout in which convolutions are fastest, on CPUs and GPUs alike."""
    placed: nn.Module = net.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return placed


def find_device(name: str) -> torch.device:
    """`auto` takes the GPU where there is one."""
    has_cuda = torch.cuda.is_available()
    if name == "cuda" and not has_cuda:
        raise DeviceError("cuda was asked for, but torch finds no GPU here: use --device cpu or auto")
    return torch.device("cuda" if has_cuda and name != "cpu" else "cpu")
