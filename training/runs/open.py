"""Begin a run, or resume one: everything that can be wrong is found before anything long starts.

In: a folder, flags, a device, a group.  Out: a `Run`, or one sentence.
"""

import copy
import hashlib
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from training import nets
from training.augment import choose_augmentation, parse_augment
from training.batchnorm.small_batches import count_positions, describe_small_batch
from training.batchnorm.statistics import find_batchnorms
from training.data import Split, foresee_facts, load_split
from training.data.normalise import is_chosen, normalised, with_statistics
from training.data.split import identify
from training.distributed.group import ALONE, Group
from training.files import OutputError, prepare_folder
from training.loop.balance import class_weights, settle_class_weights
from training.loop.batches import count_steps, default_batch_size
from training.loop.chance import STREAMS, seeded_generator
from training.loop.device import be_deterministic, check_compiler, find_device, initialize_mkl, place
from training.loop.facts import EpochFacts
from training.loop.fit import Start
from training.loop.precision import resolve_precision
from training.nets.weights import freeze
from training.runs.checkpoint import Checkpoint, CheckpointError, parse_checkpoint, read_checkpoint
from training.runs.run import CHECKPOINT, PARTIAL, Run
from training.runs.source import adopted, keep_normalisation, load_source, open_weights
from training.settings.config import ConfigError, FitConfig, new_config


def open_run(
    out: Path,
    flags: Mapping[str, Any],
    *,
    device: str = "auto",
    resume: bool = False,
    overwrite: bool = False,
    group: Group = ALONE,
) -> Run:
    """Check everything that can be checked before anything long starts; last of all, make the folder.

    `flags` are the settings that were given. Under torchrun a run resumes without `resume` too, if its
    settings are the checkpoint's: when a process has died, torchrun starts the same command again.
    Raises a TrainingError of one sentence: ConfigError, OutputError, CheckpointError, DataError, NetError …
    """
    where = find_device(device, group)
    initialize_mkl()
    if overwrite and group.max_restarts:
        raise ConfigError("--overwrite would start over with every restart: leave --max-restarts out")
    path = out / CHECKPOINT
    # Only the first process reads the folder: on other machines it may not be mounted.
    content = group.broadcast(
        lambda: _read_existing(out, resume=resume, overwrite=overwrite, by_torchrun=group.by_torchrun)
    )
    if content is None:
        run = _begin(out, flags, where, group)
    else:
        checkpoint = parse_checkpoint(content, str(path))
        if checkpoint.resume and checkpoint.resume.state.partial:
            path = out / PARTIAL
        run = _resume(path, checkpoint, flags if resume else {}, where, group)
        # Without --resume, torchrun has restarted the command: then all settings must match, defaults too.
        if not resume and run.config != _settled(new_config(flags), flags, run.split):
            raise OutputError(f"{path} is already there, of a run with other settings: take another --out")
    if run.config.batch_size < group.size:
        raise ConfigError(
            f"batch_size is of all {group.size} processes together, so no less than that, "
            f"got {run.config.batch_size}"
        )
    # Processes with other data or flags would wait for each other for ever, or train something else.
    group.require_same(_describe_shared(run))
    if run.config.deterministic and where.type == "cuda":
        be_deterministic()
    if run.config.compile:
        check_compiler(where)
    if group.is_first:
        prepare_folder(out)
    return run


def _read_existing(out: Path, *, resume: bool, overwrite: bool, by_torchrun: bool) -> bytes | None:
    """The checkpoint to resume from, or None to begin; raises OutputError if neither was asked for."""
    whole, partial = out / CHECKPOINT, out / PARTIAL
    found = [path for path in (whole, partial) if path.exists()]
    if not resume and (overwrite or not found):
        return None
    if not resume and not by_torchrun:
        raise OutputError(
            f"{found[0]} is already there: add --resume to continue it, or --overwrite to replace it"
        )
    if partial not in found:
        return read_checkpoint(whole)
    content = read_checkpoint(partial)
    num_epochs = parse_checkpoint(content, str(partial)).epoch
    # A run that was killed right after an epoch leaves the file of the epoch's middle too.
    if whole in found and parse_checkpoint(at_end := read_checkpoint(whole), str(whole)).epoch != num_epochs:
        return at_end
    return content


def _describe_shared(run: Run) -> dict[str, Any]:
    """What decides the result, and so must be the same in every process."""
    labels = run.split.train_labels.cpu().numpy().tobytes()
    return {
        **asdict(run.config),
        "the data": asdict(run.split.facts),
        "the digest of the labels": hashlib.blake2b(labels, digest_size=8).hexdigest(),
    }


def _begin(out: Path, flags: Mapping[str, Any], device: torch.device, group: Group) -> Run:
    """Cheap checks before slow ones: a mistyped net must not be found after an hour of decoding pictures."""
    source = open_weights(flags["init_from"]) if flags.get("init_from") else None
    if source is not None:
        flags = adopted(flags, source)
    config = new_config(flags)
    resolve_precision(config.precision, device)
    parse_augment(config.augment, config.data)
    given = nets.given_settings(config)
    if foreseen := foresee_facts(config.data, config.data_settings):
        nets.settings_for(config.net, foreseen, given)
    with group.first_per_machine():
        split = load_split(config.data, config.data_settings)
    split = normalised(split, config)
    if source is not None and not is_chosen(config):
        split = keep_normalisation(split, source)
    choose_augmentation(config.augment, config.data, split.facts)
    config = _settled(config, flags, split)
    if (size := config.batch_size) < new_config(flags).batch_size:
        note = (
            f"batches of {size}, for there are {len(split.train_labels)} pictures to train on (--batch-size)"
        )
        split = replace(split, notes=(*split.notes, note))
    class_weights(config.class_weights, split.train_labels, len(split.facts.labels))
    count_steps(split, config)
    settings = nets.settings_for(config.net, split.facts, given)
    net = nets.new_net(config.net, settings, seeded_generator(config.seed, "weights"))
    notes = [] if source is None else load_source(net, source, config.init_from, split)
    # Only to find out now whether it can be; the loop does it again.
    freeze(copy.deepcopy(net), config.freeze)
    if (config.positive_gamma or config.recalibrate_bn) and not find_batchnorms(net):
        raise ConfigError(f"positive_gamma and recalibrate_bn need a BatchNorm, and {config.net} has none")
    return Run(
        out=out,
        config=config,
        split=split.to(device),
        warning=_describe_batch(net, split, config),
        net=place(net, device),
        net_settings=settings,
        start=None,
        history=[],
        notes=notes,
        group=group,
    )


def _settled(config: FitConfig, flags: Mapping[str, Any], split: Split) -> FitConfig:
    """The config with what only the data can say: the weights of classes, and batches that fit."""
    config = settle_class_weights(config, split.facts.labels)
    if "batch_size" in flags:
        return config
    return replace(config, batch_size=default_batch_size(len(split.train_labels)))


def _describe_batch(net: nn.Module, split: Split, config: FitConfig) -> str | None:
    return describe_small_batch(count_positions(net, split.facts.input_shape), config.batch_size)


def _resume(
    path: Path, checkpoint: Checkpoint, flags: Mapping[str, Any], device: torch.device, group: Group
) -> Run:
    resume = checkpoint.resume
    if resume is None:
        raise CheckpointError(f"{path} is of an older version: it can be exported, but not resumed")
    try:
        config = FitConfig(**resume.config)
        history = [EpochFacts(**facts) for facts in resume.history]
        metrics = EpochFacts(**checkpoint.metrics) if checkpoint.metrics else None
    except TypeError as error:
        raise CheckpointError(f"{path}: resume: {error}") from None
    if resume.threads < 1:
        raise CheckpointError(f"{path}: threads must be at least 1, got {resume.threads}")
    if len(history) != checkpoint.epoch or resume.state.generators.keys() != set(STREAMS):
        raise CheckpointError(f"{path} does not hold what a run needs to resume")
    if len(history) == config.epochs < flags.get("epochs", 0):
        # A finished run is extended. One that is not keeps its number: its schedule was made for that.
        config = replace(config, epochs=flags["epochs"])
    for key, asked in flags.items():
        if key == "class_weights":
            asked = settle_class_weights(
                replace(config, class_weights=asked), checkpoint.data.labels
            ).class_weights
        if key == "data":
            config = replace(config, data=asked)  # moved, or the same elsewhere: its digest decides below
        elif (began := getattr(config, key)) != asked:
            raise ConfigError(f"{path} began with {key} {began}, so --resume cannot take {asked}")
    resolve_precision(config.precision, device)
    with group.first_per_machine():
        split = normalised(load_split(config.data, config.data_settings), config)
    if config.init_from:
        # What was normalised as in the source stays so, whether or not its file is still there.
        split = with_statistics(split, checkpoint.data.mean, checkpoint.data.std)
    if resume.data_digest and resume.data_digest == identify(split):
        split = replace(split, facts=replace(split.facts, name=checkpoint.data.name))
    elif resume.data_digest and split.facts == checkpoint.data:
        raise CheckpointError(f"{path} was trained on other pictures or labels than {config.data} has now")
    if split.facts != checkpoint.data:
        raise CheckpointError(
            f"{path} was trained on {checkpoint.data}, but {config.data} is now {split.facts}"
        )
    if device.type == "cpu":
        # Another number of threads sums in another order, and ends with other bits.
        torch.set_num_threads(resume.threads)
    net = checkpoint.build_net()
    return Run(
        out=path.parent,
        config=config,
        split=split.to(device),
        warning=_describe_batch(net, split, config),
        net=place(net, device),
        net_settings=checkpoint.net_settings,
        start=Start(epochs_done=checkpoint.epoch, state=resume.state, history=history),
        metrics=metrics,
        history=history,
        batchnorm=checkpoint.batchnorm,
        group=group,
        steps_saved=resume.state.partial.num_steps if resume.state.partial else 0,
    )
