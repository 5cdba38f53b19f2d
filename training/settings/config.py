"""What the user may choose for a run: each setting once, with its default, its range and its help.

In: flags.  Out: a checked `FitConfig`. It decides the result and nothing else does; where a run computes and
where it writes are not part of it: on one machine's CPU the same config gives the same weights, bit for bit.
`flags.py` makes a flag of each field.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from training.errors import TrainingError, describe_unknown

OPTIMIZERS = ("sgd", "adam", "adamw", "rmsprop")
SCHEDULES = ("one-cycle", "cosine", "step", "constant")
SAMPLINGS = ("shuffled", "balanced")
KEEPS = ("last", "best")
NORMALISATIONS = ("z-score", "min-max", "per-picture", "none")
# Where an optimizer wants something else than sgd, as its own articles and torch have it.
OPTIMIZER_DEFAULTS: dict[str, dict[str, Any]] = {
    "adam": {"learning_rate": 1e-3},
    "adamw": {"learning_rate": 1e-3},
    "rmsprop": {"learning_rate": 1e-3, "momentum": 0.0},
}
Check = Callable[[Any], bool]
PRECISIONS = ("auto", "float32", "bfloat16", "float16")
EXAMPLES = {"data": "size=64", "net": "depth=20"}


class ConfigError(TrainingError):
    """A setting out of range, or one that differs from what the run began with."""


def about(text: str, must: str = "", holds: Check = lambda value: True, choices: Sequence[str] = ()) -> Any:
    """The metadata of a setting: its help `text`, and what it `must` be, which `holds` checks."""
    return {"text": text, "must": must, "holds": holds, "choices": choices}


def setting(default: Any, *what: Any, **more: Any) -> Any:
    """A field of FitConfig with its default; the rest is what `about` takes."""
    return field(default=default, metadata=about(*what, **more))


def _is_share(value: float) -> bool:
    return 0 <= value < 1


def _is_positive(value: float) -> bool:
    return 0 < value < float("inf")


def _is_length(value: float) -> bool:
    return 0 <= value < float("inf")


SHARE = ("lie in 0 .. 1, below 1", _is_share)
LENGTH = ("be zero or positive", _is_length)


@dataclass(frozen=True, kw_only=True)
class FitConfig:
    """Settings of one run.

    `data_settings`, `net_settings` and `augment` are words as typed: only the data set, the net and the
    augmentation know what they mean. Raises ConfigError with one sentence for a value out of its range.
    """

    data: str = setting(
        "digits", "data set; or folder:PATH, npz:PATH, synthetic:3x32x32x10; an unknown name lists them"
    )
    data_settings: dict[str, str] = field(
        default_factory=dict,
        metadata=about("of the data set, such as size=64 or max_corrupt_share=0.05; once for each"),
    )
    augment: str = setting("auto", "crop,flip,cutout=8 or the like; auto is what suits the data; none")
    normalise: str = setting(
        "z-score",
        "pixels to numbers: z-score by the train half's mean and std, min-max to 0 .. 1, per-picture by each "
        "picture's own mean and std, none for 0 .. 255",
        choices=NORMALISATIONS,
    )
    mean: str = setting("", "of pixels in 0 .. 1, a number for each channel, instead of the train half's")
    std: str = setting("", "goes with --mean, such as 0.229,0.224,0.225")
    net: str = setting(
        "small-cnn", "net; or timm:NAME, torchvision:NAME, module:factory; an unknown lists them"
    )
    net_settings: dict[str, str] = field(
        default_factory=dict,
        metadata=about(
            "of the net, such as depth=20 or channels=16,32; once for each; an unknown lists them"
        ),
    )
    init_from: str = setting(
        "", "fine-tune: begin with the weights of a checkpoint, state dict or .safetensors, or of timm:NAME"
    )
    freeze: str = setting(
        "none", "what does not train: backbone (all but the last layer), bn, none, or names such as blocks.*"
    )
    backbone_rate: float = setting(
        1.0, "factor on the learning rate of all but the last layer", "be positive and finite", _is_positive
    )
    epochs: int = setting(16, "passes over the train half", "be at least 1", lambda count: count >= 1)
    batch_size: int = setting(
        64,
        "rows in a batch; fewer for under 256 pictures",
        "be at least 2, because BatchNorm needs a variance",
        lambda rows: rows >= 2,
    )
    optimizer: str = setting("sgd", f"{', '.join(OPTIMIZERS)}", choices=OPTIMIZERS)
    learning_rate: float = setting(
        0.1,
        "maximum of the schedule; 0.001 for any optimizer but sgd",
        "be positive and finite",
        lambda rate: 0 < rate < float("inf"),
    )
    momentum: float = setting(0.9, "of sgd and rmsprop, and β₁ of adam; rmsprop begins with 0", *SHARE)
    nesterov: bool = setting(True, "plain momentum for sgd, instead of Nesterov's")
    weight_decay: float = setting(2e-3, "on weights, not on biases or BatchNorm", *LENGTH)
    l1: float = setting(0.0, "factor on Σ |w| over all weights, added to the loss", *LENGTH)
    seed: int = setting(
        0,
        "of weights, order, augmentation and dropout; the split has its own",
        "lie in 0 .. 2⁶³−1",
        lambda seed: 0 <= seed < 2**63,
    )
    schedule: str = setting("one-cycle", f"of the learning rate: {' or '.join(SCHEDULES)}", choices=SCHEDULES)
    warmup: float = setting(0.0, "epochs in which the rate climbs from 0; one-cycle has its own", *LENGTH)
    accumulate: int = setting(
        1,
        "batches whose gradients make one step; BatchNorm still sees the small batches",
        "be at least 1",
        lambda count: count >= 1,
    )
    class_weights: str = setting(
        "", "on the loss: balanced, or a JSON file with a weight for each class, or 1,0.5,2"
    )
    sampling: str = setting("shuffled", "shuffled, or balanced: every class equally often", choices=SAMPLINGS)
    skip_easy: float = setting(
        0.0,
        "share of the rows that an epoch leaves out, of those with the least loss; 0.5 halves its time",
        *SHARE,
    )
    early_stop: int = setting(
        0, "end after so many epochs without a better held-out accuracy; 0 for never", *LENGTH
    )
    keep: str = setting("last", "publish the net of the last epoch, or of the best one", choices=KEEPS)
    label_smoothing: float = setting(0.0, "share of each label that is spread over all classes", *SHARE)
    clip_gradient: float = setting(
        0.0, "maximum length of the gradient, over all weights; 0 for any", *LENGTH
    )
    ema: float = setting(
        0.0, "publish an average of the weights with this decay, such as 0.99; 0 for none", *SHARE
    )
    precision: str = setting(
        "auto", f"{', '.join(PRECISIONS)}; auto is bfloat16 on a GPU that has it", choices=PRECISIONS
    )
    compile: bool = setting(False, "compile the net with torch.compile: slow to begin, faster from then on")
    deterministic: bool = setting(
        False, "on a GPU, take only algorithms that repeat themselves; a CPU does so anyway"
    )
    positive_gamma: bool = setting(
        False, "keep every BatchNorm's γ above zero, so that pre-activation nets fold completely"
    )
    recalibrate_bn: int = setting(
        0, "train batches to re-estimate BatchNorm's statistics from, at the end", *LENGTH
    )

    def __post_init__(self) -> None:
        for each in fields(self):
            value, rule = getattr(self, each.name), each.metadata
            if rule["choices"] and value not in rule["choices"]:
                raise ConfigError(describe_unknown(each.name, value, rule["choices"]))
            if not rule["holds"](value):
                raise ConfigError(f"{each.name} must {rule['must']}, got {value}")
        if bool(self.mean) != bool(self.std) or (self.mean and self.normalise != "z-score"):
            raise ConfigError("mean and std go together, and with normalise z-score only")
        if self.skip_easy and self.sampling != "shuffled":
            raise ConfigError(f"skip_easy chooses the rows itself: leave out sampling {self.sampling}")
        if self.warmup and self.schedule == "one-cycle":
            raise ConfigError("warmup must be 0 with schedule one-cycle, which begins with one of its own")
        if self.warmup > self.epochs:
            raise ConfigError(f"warmup must be at most epochs, {self.epochs}, got {self.warmup:g}")


def new_config(flags: Mapping[str, Any]) -> FitConfig:
    """The config of a new run: what was not given has its default, or what suits the optimizer."""
    optimizer = flags.get("optimizer", FitConfig.optimizer)
    if optimizer != "sgd" and not flags.get("nesterov", True):
        raise ConfigError(f"nesterov is for optimizer sgd only, got {optimizer}: leave out --no-nesterov")
    return FitConfig(**{**OPTIMIZER_DEFAULTS.get(optimizer, {}), **flags})


def split_settings(of: str, texts: Sequence[str]) -> dict[str, str]:
    """`NAME=VALUE` for each setting `of` the "net" or the "data"; ConfigError if one is given twice."""
    words: dict[str, str] = {}
    for text in texts:
        name, equals, word = text.partition("=")
        if not (name and equals):
            raise ConfigError(f"a {of} setting must be NAME=VALUE, such as {EXAMPLES[of]}, got {text!r}")
        if name in words:
            raise ConfigError(f"{of} setting {name} is given twice, as {words[name]} and as {word}")
        words[name] = word
    return words
