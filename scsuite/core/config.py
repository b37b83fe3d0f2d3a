"""Every option of the suite, once: its name, default, unit, range and help, in frozen dataclasses checked when made.

In: values from the command line, a YAML file, a checkpoint or Python. Out: a valid configuration, or a UsageError.
`cli.options` turns the same fields into Typer options; nothing here imports typer, torch or numpy.
"""

import difflib
import sys
from collections.abc import Mapping
from dataclasses import MISSING, Field, asdict, dataclass, field, fields
from typing import Any, Self, TypeGuard, get_args, get_origin

from scsuite.core.errors import InputError, UsageError

MOMENTUM_MAX = 0.95  # at LRMIN; Smith, https://arxiv.org/abs/1803.09820, section 4.3: high rate, low momentum
MOMENTUM_MIN = 0.85  # at LRMAX; the range test runs at this one
MOMENTUM = 0.9  # without --cycle-momentum
PEAK_FRACTION = 5 / 24  # of the epochs: the assignment's peak at the end of epoch 5 of 24
EMA_FRACTION = 1 / 24  # of the epochs: what the average of the weights looks back on
MIN_RANGE_TEST_STEPS = 100  # steps; a range test with fewer is warned of, and train's own never has fewer
MAX_PLOTTED_STEPS = 1_000_000  # steps; a curve of more takes memory and time that no reader sees

BACKENDS = ("auto", "batched", "albumentations")
CAM_METHOD = "hirescam"  # scores best on `shapes`, at the network's `cam_layer`; README, "Which map can be trusted?"
CAM_METHODS = ("gradcam", "gradcam++", "hirescam", "layercam", "xgradcam")
LR_POLICIES = ("triangular", "triangular2", "exp-range", "one-cycle")
PRECISIONS = ("auto", "fp32", "bf16", "fp16")
SELECTIONS = ("misclassified", "correct", "confident", "uncertain", "all")  # or indices, as in 3,14,15
DATA_SOURCES = ("cifar10", "shapes")  # or a path
TTA_MODES = ("none", "flip", "flip-shift")

# Options that no result depends on: a resume may change them, and ranks may differ in them.
RESULT_NEUTRAL_OPTIONS = frozenset({"workers", "data_dir", "cache_dir"})


def is_finite_number(value: Any) -> TypeGuard[int | float]:
    """Return whether a value is a finite number; bool, an int to Python, is not."""
    return type(value) in (int, float) and abs(value) <= sys.float_info.max  # False for NaN


def option(default: Any, help: str, **facts: Any) -> Any:  # noqa: A002 - the word that Typer uses
    """A configuration field. `facts`: gt, ge, lt, le (bounds), choices, flags (names), env, metavar, path."""
    metadata = {"help": help, **facts}
    return field(default=default, metadata=metadata) if default is not MISSING else field(metadata=metadata)


def flag_name(item: Field[Any]) -> str:
    """The option's first name on the command line: `batch_size` is `--bs`, `lr_max` is `--lr-max`."""
    flags: tuple[str, ...] = item.metadata.get("flags", ())
    return flags[0].split("/")[0] if flags else "--" + item.name.rstrip("_").replace("_", "-")


@dataclass(frozen=True, kw_only=True)
class Config:
    """The base of all configurations: checks every field against its bounds and choices."""

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if value is not None or type(None) not in get_args(item.type):
                _check(item, value)

    def to_dict(self) -> dict[str, Any]:
        """Plain values only, fit for YAML and JSON; lists for tuples."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The configuration that `to_dict` gave; names that this class does not have are passed over."""
        names = {item.name for item in fields(cls)}
        return cls(**{n: tuple(v) if isinstance(v, list) else v for n, v in values.items() if n in names})

    @classmethod
    def from_saved(cls, values: Mapping[str, Any], where: object) -> Self:
        """As `from_dict`; what is wrong with the values is a fault of the file `where`, not of the command line."""
        try:
            return cls.from_dict(values)
        except UsageError as error:
            raise InputError(
                "settings", where, expected=f"for {error.where} {error.expected}", found=error.found,
                hint="Give what scsuite wrote, unchanged.",
            ) from None  # fmt: skip


def _check(item: Field[Any], value: Any) -> None:
    facts, flag = item.metadata, flag_name(item)
    if choices := facts.get("choices"):
        if value not in choices:
            near = difflib.get_close_matches(str(value), choices, n=1)
            hint = f"Did you mean {near[0]}?" if near else "See --help."
            raise UsageError("option", flag, expected=f"one of {', '.join(choices)}", found=repr(value), hint=hint)
        return
    if (wanted := _kind(item)) is not None and not _is_a(wanted, value):
        kinds = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
        raise UsageError("option", flag, expected=kinds[wanted], found=repr(value), hint="See --help.")
    if isinstance(value, bool) or not isinstance(value, int | float):
        if value == "":
            raise UsageError("option", flag, expected="a value", found="an empty one", hint="Leave the option out.")
        return
    signs = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}
    bounds = {sign: facts[name] for name, sign in signs.items() if name in facts}
    holds = {">": lambda b: value > b, ">=": lambda b: value >= b, "<": lambda b: value < b, "<=": lambda b: value <= b}
    finite = wanted is int or abs(value) <= sys.float_info.max  # so written, NaN is not
    if not finite or not all(holds[sign](bound) for sign, bound in bounds.items()):
        kind = "a whole number" if isinstance(value, int) else "a finite number"
        limits = " and ".join(f"{sign} {bound}" for sign, bound in bounds.items())
        raise UsageError("option", flag, expected=f"{kind} {limits}".strip(), found=value, hint="See --help.")


def _kind(item: Field[Any]) -> type[bool] | type[int] | type[float] | type[str] | None:
    kinds = (item.type, *get_args(item.type))  # `int`, or the parts of `int | None`
    return next(
        (kind for kind in (bool, int, float, str) if kind in kinds and get_origin(item.type) is not tuple), None
    )


def _is_a(kind: type, value: Any) -> bool:
    if isinstance(value, bool):  # an int to Python
        return kind is bool
    return isinstance(value, int | float if kind is float else kind)


@dataclass(frozen=True, kw_only=True)
class DataConfig(Config):
    """Which images, and how many of them."""

    data: str = option(
        "cifar10",
        "cifar10, shapes, or a folder or archive of train/CLASS/* images.",
        env="SCSUITE_DATA",
        metavar="SPEC",
        path=True,
        words=DATA_SOURCES,
    )
    data_dir: str | None = option(
        None, "Where cifar10's files are or go. (default: the user's cache folder)", path=True
    )
    cache_dir: str | None = option(
        None, "Where decoded images are kept. (default: the user's cache folder)", env="SCSUITE_CACHE"
    )
    limit_train: int | None = option(None, "Train on N images, a class-balanced part, always the same.", ge=1)
    limit_test: int | None = option(None, "Test on N images, a class-balanced part, always the same.", ge=1)
    test_split: float = option(0.2, "Share held out for the test where the data has no test/ or val/.", gt=0, lt=1)


@dataclass(frozen=True, kw_only=True)
class ComputeConfig(DataConfig):
    """Where and how a network computes."""

    seed: int = option(0, "Seed of every random draw.", ge=0, lt=2**63)
    device: str = option("auto", "auto, cpu, cuda, cuda:N or mps.")
    workers: int | None = option(
        None, "Processes that augment ahead; 0 augments in place. (default: by machine)", ge=0, le=256
    )
    precision: str = option("auto", "Device of the network.", choices=PRECISIONS)
    width: float = option(1.0, "Scales the network's channels; 1 is the assignment's.", gt=0, le=16)


@dataclass(frozen=True, kw_only=True)
class RecipeConfig(ComputeConfig):
    """What one training step does; the range test and the training share it."""

    batch_size: int = option(512, "Images in one step.", flags=("--bs", "--batch-size"), ge=1)
    optimizer: str = option("sgd", "sgd (Nesterov) or adamw.", choices=("sgd", "adamw"))
    weight_decay: float = option(5e-4, "L2 penalty (sgd) or decoupled decay (adamw).", ge=0)
    l1: float = option(0.0, "L1 penalty on the weights, added to the loss.", ge=0)
    label_smoothing: float = option(0.1, "Share of the target spread over all classes.", ge=0, lt=1)
    dropout: float = option(0.0, "Share of features dropped before fc.", ge=0, lt=1)
    augment: str | None = option(
        None, "Albumentations policy file. (default: crop, flip, 8x8 cutout)", metavar="FILE.yaml", path=True
    )
    augment_backend: str = option(
        "auto", "Augment whole batches on the device, or image by image in worker processes.", choices=BACKENDS
    )
    alternate_flips: bool = option(
        True, "Mirror each image in every other epoch instead of at random (default policy only)."
    )
    gradient_centralization: bool = option(True, "Take the mean of each convolution filter's gradient from it.")
    whitening_init: bool = option(True, "Begin with the components of the images' patches as filters, where all have room.")
    identity_init: bool = option(True, "Begin with identity_init among the layers' filters, which pass on what came in.")
    ghost_batch_size: int = option(16, "Batch norm over N images of a batch at a time; 0: over all.", ge=0, metavar="N")
    bn_weight_decay: bool = option(False, "Weight decay for batch norm's weights and biases too.")
    cycle_momentum: bool = option(False, "Momentum 0.95 > 0.85 > 0.95 against the rate, rather than 0.9.")
    val_split: int = option(0, "Hold N images out of the training images.", ge=0, metavar="N")

    @property
    def uses_alternating_flip(self) -> bool:
        """Whether the loader alternates the flips; a policy file defines its own flips."""
        return self.alternate_flips and self.augment is None


@dataclass(frozen=True, kw_only=True)
class LrRangeConfig(RecipeConfig):
    """The learning-rate range test."""

    lr_start: float = option(1e-3, "First learning rate.", gt=0)
    lr_end: float = option(10.0, "Last learning rate.", gt=0)
    steps: int = option(200, "Steps of the sweep.", ge=10, le=MAX_PLOTTED_STEPS)
    epochs: float | None = option(None, "Length of the sweep in epochs, instead of --steps.", gt=0, le=1000)
    curve: str = option("exp", "How the rate rises.", choices=("exp", "linear"))
    train_epochs: int = option(24, "Epochs of the training that the pair is for.", ge=1, le=100_000)
    repeats: int = option(1, "Sweeps with different seeds, drawn as a band.", ge=1, le=100)

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_order("--lr-start", self.lr_start, "--lr-end", self.lr_end)


@dataclass(frozen=True, kw_only=True)
class TrainConfig(RecipeConfig):
    """One Cycle training. `lr_max` None means: find it first; `lr_min` None: found with it, or lr_max / div_factor."""

    epochs: int = option(24, "Passes over the training images.", ge=1, le=100_000)
    peak_epoch: float | None = option(
        None, "Epoch at whose end the rate peaks; a fraction too. (default: 5 of 24)", gt=0, metavar="EPOCH"
    )
    lr_max: float | None = option(None, "Rate at the peak; auto finds it by a range test.", gt=0, auto=True)
    lr_min: float | None = option(None, "Rate at both ends; auto goes with --lr-max.", gt=0, auto=True)
    div_factor: float = option(10.0, "With --lr-max alone, the lower rate is that divided by this.", gt=1)
    lr_from: str | None = option(None, "Take both rates from an lr-range run.", metavar="RUN")
    ema_epochs: float | None = option(
        None, "Average the weights over about the last N epochs; 0: none. (default: 1 of 24)", ge=0, metavar="N"
    )
    deterministic: bool = option(False, "Bit-identical runs on CUDA too, at some speed.", flags=("--deterministic",))

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_peak(self.peak_epoch, self.epochs)
        if self.lr_min is not None and self.lr_max is None and self.lr_from is None:
            raise UsageError(
                "option",
                "--lr-min",
                expected="--lr-max beside it",
                found="--lr-min alone",
                hint="Give both, or neither to have them found.",
            )
        if self.lr_from is not None and (self.lr_min is not None or self.lr_max is not None):
            raise UsageError(
                "option",
                "--lr-from",
                expected="no --lr-min or --lr-max beside it",
                found="both",
                hint="Give the rates or the run to take them from.",
            )
        if self.lr_min is not None and self.lr_max is not None:
            _check_order("--lr-min", self.lr_min, "--lr-max", self.lr_max)

    @property
    def resolved_peak_epoch(self) -> float:
        """The peak in epochs: `peak_epoch`, or 5/24 of the epochs."""
        return self.epochs * PEAK_FRACTION if self.peak_epoch is None else self.peak_epoch

    @property
    def resolved_ema_epochs(self) -> float:
        """What the average of the weights looks back on, in epochs: `ema`, or 1/24 of the epochs."""
        return self.epochs * EMA_FRACTION if self.ema_epochs is None else self.ema_epochs


@dataclass(frozen=True, kw_only=True)
class ZigzagConfig(Config):
    """The learning-rate curve to draw."""

    lr_min: float = option(0.04, "Lower limit.", gt=0)
    lr_max: float = option(0.4, "Upper limit.", gt=0)
    step_size: int = option(490, "Steps from one limit to the other: 5 epochs of 98 steps.", ge=1)
    cycles: int = option(2, "Cycles to draw, two step sizes each.", ge=1, le=1000)
    policy: str = option("triangular", "Shape of the curve.", choices=LR_POLICIES)
    epochs: int = option(24, "Length of one-cycle.", ge=1, le=100_000)
    peak_epoch: float | None = option(None, "Epoch at whose end one-cycle peaks. (default: 5 of 24)", gt=0)
    steps_per_epoch: int = option(98, "Steps in an epoch: 50,000 images in batches of 512.", ge=1, le=10_000_000)
    run: str | None = option(None, "Draw what this training run planned and really did.", metavar="RUN")
    out: str | None = option(None, "Also write the figure here.", metavar="FILE.png|svg|pdf")
    csv: str | None = option(None, "Also write the curve's values here.", metavar="FILE")

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_order("--lr-min", self.lr_min, "--lr-max", self.lr_max)
        _check_peak(self.peak_epoch, self.epochs)
        one_cycle = self.policy == "one-cycle"
        steps = self.epochs * self.steps_per_epoch if one_cycle else 2 * self.step_size * self.cycles
        if steps > MAX_PLOTTED_STEPS:
            raise UsageError(
                "option",
                "--epochs and --steps-per-epoch" if one_cycle else "--step-size and --cycles",
                expected=f"at most {MAX_PLOTTED_STEPS:,} steps to draw",
                found=f"{steps:,}",
                hint="Lower one of them.",
            )


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig(Config):
    """What `evaluate` and `gradcam` share: a trained network, read as its run read it unless a flag says else."""

    ckpt: str = option(MISSING, "Run directory or checkpoint file.", metavar="RUN|FILE")
    data: str | None = option(None, "Data to read instead of the run's.", metavar="SPEC")
    data_dir: str | None = option(None, "Where cifar10's files are or go.")
    cache_dir: str | None = option(None, "Where decoded images are kept.", env="SCSUITE_CACHE")
    limit_test: int | None = option(None, "Test on N images, a class-balanced part.", ge=1)
    device: str = option("auto", "auto, cpu, cuda, cuda:N or mps.")
    precision: str | None = option(None, "Device, instead of the run's.", choices=PRECISIONS)


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(CheckpointConfig):
    """Evaluation of a trained network on the test images."""

    tta: str = option("none", "Test-time augmentation, reported beside the plain figure.", choices=TTA_MODES)
    misclassified: int = option(25, "How many misclassified images to draw.", ge=0, le=1000)


@dataclass(frozen=True, kw_only=True)
class GradcamConfig(CheckpointConfig):
    """Grad-CAM of a trained network."""

    method: str = option(CAM_METHOD, "Which map.", choices=CAM_METHODS)
    layer: str | None = option(None, "Layer to look at, or several: a,b. (default: the network's own choice)")
    list_layers: bool = option(False, "List the layers that have a map, and do nothing else.", flags=("--list-layers",))
    class_: str = option("both", "predicted, actual, both, or a class name.", flags=("--class",))
    select: str = option("misclassified", f"{', '.join(SELECTIONS)}, or indices: 3,14,15.")
    images: tuple[str, ...] = option((), "Pictures of your own instead of test images.", metavar="FILES")
    count: int = option(25, "How many images.", ge=1, le=1000)
    save_maps: bool = option(False, "Write the maps' values too: maps.safetensors.", flags=("--save-maps",))
    save_overlays: bool = option(False, "Write each overlay as an image of its own too.", flags=("--save-overlays",))

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.select not in SELECTIONS and self.indices is None:
            near = difflib.get_close_matches(self.select, SELECTIONS, n=1)
            raise UsageError(
                "option",
                "--select",
                expected=f"one of {', '.join(SELECTIONS)}, or indices: 3,14,15",
                found=repr(self.select),
                hint=f"Did you mean {near[0]}?" if near else "See --help.",
            )

    @property
    def indices(self) -> tuple[int, ...] | None:
        """What `select` lists, where it is a list of indices."""
        parts = self.select.split(",")
        return tuple(map(int, parts)) if all(part.isascii() and part.isdigit() for part in parts) else None


def _check_peak(peak_epoch: float | None, epochs: int) -> None:
    if peak_epoch is not None and peak_epoch >= epochs:
        raise UsageError(
            "option",
            "--peak-epoch",
            expected=f"less than --epochs ({epochs})",
            found=peak_epoch,
            hint="Leave it out for the peak at 5/24 of the epochs.",
        )


def _check_order(low_flag: str, low: float, high_flag: str, high: float) -> None:
    if low >= high:
        raise UsageError(
            "option",
            f"{low_flag} and {high_flag}",
            expected="the first below the second",
            found=f"{low} and {high}",
            hint="Swap or change them.",
        )
