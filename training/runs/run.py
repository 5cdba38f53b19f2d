"""One run and its folder: fit, and leave its files whole after every epoch.

In: what `open_run` has checked.  Out: the facts of each epoch, and on the disk of the first process

    checkpoint.pt     everything, see checkpoint.py
    partial-epoch.pt  the same within an epoch, where asked for, until that ends
    metrics.jsonl     one line an epoch; no times in it, so a resumed run leaves the same lines
    three pictures    see gallery.py
"""

import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from training.batchnorm.report import BatchNormReport
from training.data import Split, sample_held_out
from training.data.split import identify
from training.distributed.group import ALONE, Group
from training.figures.gallery import CONFUSION, CURVES, MISTAKES, publish_curves, publish_predictions
from training.files import OutputError, publish
from training.loop.device import explaining, place
from training.loop.facts import EpochFacts, StepFacts
from training.loop.fit import Epoch, Start, fit
from training.loop.loss_watch import CHECK_EVERY
from training.loop.partial import Saving
from training.loop.state import State
from training.runs.checkpoint import Checkpoint, Resume, load_checkpoint, save_checkpoint
from training.settings.config import FitConfig

CHECKPOINT, PARTIAL, METRICS = "checkpoint.pt", "partial-epoch.pt", "metrics.jsonl"
# Held-out rows travel with the net: export proves with some, and measures with all what int8 costs.
SAMPLE_ROWS, SAMPLE_BYTES, MIN_SAMPLE_ROWS = 2000, 4 << 20, 100


@dataclass(kw_only=True, eq=False)
class Run:
    """A run about to begin or to resume; `history` grows with each epoch, `batchnorm` comes with the last.

    `metrics` are the facts of the net that is published: of the last epoch, or of the best. `steps_saved` are
    those of the epoch that is not done.

    `warning` is about the batch size, `notes` about what it is fine-tuned from, for the user.
    """

    out: Path
    config: FitConfig
    split: Split
    net: nn.Module
    net_settings: dict[str, Any]
    start: Start | None
    history: list[EpochFacts]
    metrics: EpochFacts | None = None
    batchnorm: BatchNormReport | None = None
    warning: str | None = None
    notes: Sequence[str] = ()
    group: Group = ALONE
    steps_saved: int = 0

    @property
    def device(self) -> torch.device:
        """The device that the run computes on."""
        return self.split.train_labels.device

    def epochs(
        self,
        on_step: Callable[[StepFacts], None] | None = None,
        check_every: int = CHECK_EVERY,
        checkpoint_every: int = 0,
    ) -> Iterator[EpochFacts]:
        """Fit; save after each epoch, then yield its facts; draw the published net's predictions at last.

        With `checkpoint_every`, it saves after so many steps within an epoch as well.
        """
        if self.history:
            self._write_metrics()
        saving = Saving(every=checkpoint_every, save=self._save_partial) if checkpoint_every else None
        try:
            with explaining():
                for epoch in fit(
                    self.net, self.split, self.config, self.start, self.group, on_step, check_every, saving
                ):
                    if self.group.is_first:
                        save_checkpoint(self.out / CHECKPOINT, self._to_checkpoint(epoch))
                        self._remove(PARTIAL)
                        if not self.history:
                            # Of a run that this one replaces: from here on they would not be of its net.
                            self._remove(CURVES, CONFUSION, MISTAKES)
                    self.steps_saved = 0
                    self.history.append(epoch.facts)
                    self.batchnorm, self.metrics = epoch.batchnorm, epoch.metrics
                    self._write_metrics()
                    yield epoch.facts
        except BaseException:
            with suppress(OutputError):  # the first error is the one to report
                self._draw_curves()
            raise
        self._draw_curves()
        if self.group.is_first:
            self._remove(PARTIAL)  # where a kill came right after the last epoch was saved
            published = place(load_checkpoint(self.out / CHECKPOINT).build_net(), self.device)
            publish_predictions(self.out, published, self.split, self._title)

    @property
    def _title(self) -> str:
        return f"{self.config.net} on {self.split.facts.name}"

    @cached_property
    def _data_digest(self) -> str:
        return identify(self.split)

    @cached_property
    def _held_out_sample(self) -> tuple[Tensor, Tensor]:
        row_bytes = math.prod(self.split.facts.input_shape)
        number = min(SAMPLE_ROWS, max(MIN_SAMPLE_ROWS, SAMPLE_BYTES // row_bytes))
        return sample_held_out(self.split, number)

    def _remove(self, *names: str) -> None:
        for name in names:
            (self.out / name).unlink(missing_ok=True)

    def _save_partial(self, net: nn.Module, state: State) -> None:
        assert state.partial is not None
        if self.group.is_first:
            save_checkpoint(self.out / PARTIAL, self._checkpoint(net, state, self.history))
            if not self.history:
                # Of a run that this one replaces: --resume would continue that one.
                self._remove(CHECKPOINT, METRICS, CURVES, CONFUSION, MISTAKES)
        self.steps_saved = state.partial.num_steps

    def _draw_curves(self) -> None:
        if self.history and self.group.is_first:
            publish_curves(self.out, self.history, self._title)

    def _write_metrics(self) -> None:
        if self.group.is_first:
            lines = [json.dumps(asdict(facts)) + "\n" for facts in self.history]
            publish(self.out / METRICS, "".join(lines).encode())

    def _to_checkpoint(self, epoch: Epoch) -> Checkpoint:
        checkpoint = self._checkpoint(epoch.net, epoch.state, [*self.history, epoch.facts])
        return replace(checkpoint, metrics=asdict(epoch.metrics), batchnorm=epoch.batchnorm)

    def _checkpoint(self, net: nn.Module, state: State, history: Sequence[EpochFacts]) -> Checkpoint:
        """Without metrics: within an epoch, no facts are those of the net."""
        pixels, labels = self._held_out_sample
        return Checkpoint(
            net_name=self.config.net,
            net_settings=self.net_settings,
            state_dict=dict(net.state_dict()),
            seed=self.config.seed,
            epoch=len(history),
            metrics={},
            data=self.split.facts,
            held_out_pixels=pixels,
            held_out_labels=labels,
            batchnorm=None,
            resume=Resume(
                config=asdict(self.config),
                threads=torch.get_num_threads(),
                history=[asdict(facts) for facts in history],
                state=state,
                data_digest=self._data_digest,
            ),
        )
