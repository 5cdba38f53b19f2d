"""A search's folder: resume only the search that it holds, and join the processes that run it.

In: a folder, the fixed settings, and the kind of search.  Out: a `Search`, or an error of one sentence.
"""

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy.exc
import torch
from optuna.storages import RDBStorage
from torch import Tensor

from training import nets
from training.data import Pixels, Split, load_split
from training.data.normalise import normalised
from training.files import OutputError, prepare_folder
from training.loop.balance import settle_class_weights
from training.loop.batches import count_steps
from training.loop.chance import seeded_generator
from training.loop.device import find_device
from training.search.command import SearchError
from training.search.sharing import sharing
from training.search.space import FACTORS, batch_sizes_for, has_width
from training.search.trials import Search, new_net
from training.settings.config import ConfigError, new_config

DATABASE, NAME = "search.db", "search"
JUDGED_SHARE = 0.2  # of the train half: the held-out half stays unseen in a search
WAIT_S = 60.0  # for another process that writes to the file
PRUNERS: dict[str, Callable[[], optuna.pruners.BasePruner]] = {
    "median": optuna.pruners.MedianPruner,
    "asha": lambda: optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=3),
    "none": optuna.pruners.NopPruner,
}


@contextmanager
def open_search(
    out: Path,
    fixed: dict[str, Any],
    *,
    width: float | None,
    num_trials: int,
    sampler: str,
    pruner: str,
    device: str,
    chosen: Sequence[str] = (),
) -> Iterator[Search]:
    """Check everything that can be checked; then make the folder and its file, or open those that exist.

    Raises ConfigError, NetError, DataError, OutputError, or SearchError for another search's folder.
    """
    where, config = find_device(device), new_config(fixed)
    nets.read_net_settings(config.net, config.net_settings)
    can_widen = has_width(config.net)
    if width not in (None, 1.0) and not can_widen:
        raise ConfigError(f"width must be left out: net {config.net} has no settings of its width")
    split = divide(normalised(load_split(config.data, config.data_settings), config))
    if config.class_weights:
        settled = settle_class_weights(config, split.facts.labels)
        fixed = {**fixed, "class_weights": settled.class_weights}
    sizes = batch_sizes_for(len(split.train_labels))
    factors = (width,) if width is not None else FACTORS if can_widen else (1.0,)
    if given := [name for name in chosen if name in fixed]:
        raise ConfigError(f"{given[0]} is either given or searched for: leave one out")
    prepare_folder(out)
    with sharing(out) as shared, contextlib.ExitStack() as until_the_end:
        with shared.alone():
            storage = until_the_end.enter_context(opened(out / DATABASE))
            study = optuna.create_study(
                storage=storage,
                study_name=NAME,
                direction="maximize",
                load_if_exists=True,
                pruner=PRUNERS[pruner](),
            )
        search = Search(
            out=out,
            fixed=fixed,
            num_trials=num_trials,
            sampler=sampler,
            device=where,
            split=split.to(where),
            batch_sizes=sizes,
            factors=factors,
            chosen=chosen,
            study=study,
            shared=shared,
        )
        for size in [fixed["batch_size"]] if "batch_size" in fixed else sizes:
            count_steps(split, search.config_of({} if "batch_size" in fixed else {"batch_size": size}, 1.0))
        for factor in factors:
            new_net(search.config_of({}, factor), split)
        labels = blake2b(split.train_labels.numpy().tobytes(), digest_size=8).hexdigest()
        own: dict[str, Any] = {"width": width, "sampler": sampler, "pruner": pruner, "labels": labels}
        own |= {"choose": sorted(chosen)} if chosen else {}
        with shared.alone():
            require_same(study, {**fixed, **own}, out / DATABASE)
            shared.fail_abandoned(study)
        yield search


@contextmanager
def opened(path: Path) -> Iterator[RDBStorage]:
    """The SQLite file; every error of SQLite or Optuna within becomes a SearchError of one sentence."""
    if "?" in str(path):
        raise OutputError(f"{path}: a search cannot be kept in a folder whose name has a question mark")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage = None
    try:
        try:
            # Creates the tables where there are none; RuntimeError if another version of Optuna made them.
            storage = RDBStorage(f"sqlite:///{path}", engine_kwargs={"connect_args": {"timeout": WAIT_S}})
        except RuntimeError as error:
            raise unusable(path, error) from None
        yield storage
    except (sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        raise unusable(path, error) from None
    finally:
        if storage is not None:
            storage.remove_session()
            storage.engine.dispose()


def unusable(path: Path, error: Exception) -> SearchError:
    """The error of SQLite or Optuna, in one line."""
    reason = str(getattr(error, "orig", None) or error.__cause__ or error).splitlines()[0]
    return SearchError(f"{path} cannot be used as the file of a search: {reason}")


def require_same(study: optuna.Study, settings: dict[str, Any], path: Path) -> None:
    """Raise SearchError unless `settings` are those that the search began with."""
    settings = json.loads(json.dumps(settings))
    began = study.user_attrs.get("settings")
    if began is None:
        study.set_user_attr("settings", settings)
        return
    for name in sorted(began.keys() | settings.keys()):
        if began.get(name) != settings.get(name):
            raise SearchError(
                f"{path} began with {name} {began.get(name, 'not given')}, so it cannot continue with "
                f"{settings.get(name, 'not given')}: take another --out"
            )


def divide(split: Split) -> Split:
    """The train half in two, the same for every search: what trials train on, and what they are judged on.

    Mean and std stay those of the whole.
    """
    num_rows = len(split.train_labels)
    order = torch.randperm(num_rows, generator=seeded_generator(0, "search rows"))
    judged, trained = torch.split(
        order, [round(JUDGED_SHARE * num_rows), num_rows - round(JUDGED_SHARE * num_rows)]
    )
    return replace(
        split,
        train_pixels=take(split.train_pixels, trained),
        train_labels=split.train_labels[trained],
        held_out_pixels=take(split.train_pixels, judged),
        held_out_labels=split.train_labels[judged],
    )


def take(pixels: Pixels, rows: Tensor) -> Pixels:
    """Some of the pictures, where they are: in memory or on the disk."""
    return pixels[rows] if isinstance(pixels, Tensor) else pixels.take(rows)
