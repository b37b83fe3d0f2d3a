"""The configurations of the learning-rate range test and of a training; both are public.

In: values by keyword. Out: frozen configurations, checked.
"""

from dataclasses import dataclass

from scsuite.core.config.fields import COMPUTE, LEARNING_RATE, OUTPUT, RECIPE, document_fields, option
from scsuite.core.config.recipe import MAX_SEED, RecipeConfig, apply_recipe
from scsuite.core.errors import UsageError

PEAK_FRACTION = 5 / 24  # of the epochs: the assignment's peak at the end of epoch 5 of 24
EMA_FRACTION = 1 / 24  # of the epochs: the time constant of the weights' moving average
# Label smoothing makes a network less confident than it is accurate. Fitted to held-out images of CIFAR-10 after a
# training with all defaults, runs/reference/held-out: calibration error 1.2 %, not 10.4 %. Other values of label
# smoothing were not measured.
SMOOTHED_TEMPERATURE = 0.59
FITTED_LABEL_SMOOTHING = 0.1
MIN_TEMPERATURE, MAX_TEMPERATURE = 0.01, 100.0
MIN_RANGE_TEST_STEPS = 100  # steps; a shorter range test gives a warning, and the one that train runs is never shorter
MAX_PLOTTED_STEPS = 1_000_000  # steps; a longer curve needs memory and time, and its plot shows no more


@document_fields
@apply_recipe
@dataclass(frozen=True, kw_only=True)
class LrRangeConfig(RecipeConfig):
    """Settings of a learning-rate range test.

    `recipe` sets every setting of its recipe that is not given.

    Args:
        All fields, by keyword.

    Raises:
        UsageError: For a value outside its range, or lr_start >= lr_end.

    Example:
        >>> config = LrRangeConfig(data="shapes", steps=100, seed=1)
    """

    lr_start: float = option(1e-3, LEARNING_RATE, "First learning rate.", gt=0, metavar="LR")
    lr_end: float = option(10.0, LEARNING_RATE, "Last learning rate.", gt=0, metavar="LR")
    steps: int = option(200, LEARNING_RATE, "Steps of the sweep.", ge=10, le=MAX_PLOTTED_STEPS)
    epochs: float | None = option(
        None, LEARNING_RATE, "Length of the sweep in epochs, instead of --steps.", gt=0, le=1000
    )
    curve: str = option("exp", LEARNING_RATE, "How the learning rate rises.", choices=("exp", "linear"))
    train_epochs: int = option(
        24, LEARNING_RATE, "Epochs of the training that the LR bounds are for.", ge=1, le=100_000
    )
    repeats: int = option(1, LEARNING_RATE, "Sweeps, each with its own seed.", ge=1, le=100)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_order("--lr-start", self.lr_start, "--lr-end", self.lr_end)


@document_fields
@apply_recipe
@dataclass(frozen=True, kw_only=True)
class TrainConfig(RecipeConfig):
    """Settings of a One Cycle training.

    lr_max=None: the range test finds both LR bounds. lr_min=None with lr_max given: lr_max / div_factor.
    `recipe` sets every setting of its recipe that is not given; a given one wins, one equal to the default too.
    dataclasses.replace gives every setting, so for another recipe make a new configuration.

    Args:
        All fields, by keyword.

    Raises:
        UsageError: For a value outside its range, or values that contradict each other.

    Example:
        >>> config = TrainConfig(data="shapes", epochs=8, lr_max=0.4)
        >>> config.resolved_peak_epoch
        1.6666666666666667
    """

    epochs: int = option(24, LEARNING_RATE, "Passes over the training images.", ge=1, le=100_000)
    peak_epoch: float | None = option(
        None, LEARNING_RATE, "The learning rate peaks at the end of this epoch; may be a fraction. (default: 5/24 of"
        " the epochs)", gt=0, metavar="EPOCH",
    )  # fmt: skip
    lr_max: float | None = option(
        None, LEARNING_RATE, "Learning rate at the peak; auto: from a range test.", gt=0, metavar="LR", allow_auto=True
    )
    lr_min: float | None = option(
        None, LEARNING_RATE, "Learning rate at both ends; auto: from the same range test, or --lr-max / --div-factor.",
        gt=0, metavar="LR", allow_auto=True,
    )  # fmt: skip
    div_factor: float = option(10.0, LEARNING_RATE, "LRMIN is LRMAX divided by this if only --lr-max is given.", gt=1)
    lr_from: str | None = option(None, LEARNING_RATE, "Take both LR bounds from this lr-range run.", metavar="RUN")
    ema_epochs: float | None = option(
        None, RECIPE, "Time constant of the weights' exponential moving average, in epochs; 0: no average. (default:"
        " 1/24 of the epochs)", ge=0,
    )  # fmt: skip
    temperature: float | None = option(
        None, RECIPE, "Divide the logits by this where probabilities are computed: below 1 they are more confident. No"
        " predicted class changes. (default: 0.59 for label smoothing 0.1, else 1)", ge=MIN_TEMPERATURE,
        le=MAX_TEMPERATURE,
    )  # fmt: skip
    deterministic: bool = option(
        False, COMPUTE, "Bit-identical runs on CUDA too, but slower.", names=("--deterministic",)
    )
    cuda_graph: bool = option(
        False, COMPUTE, "Launch each step as one CUDA graph; not yet tried on a GPU.", names=("--cuda-graph",)
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_peak(self.peak_epoch, self.epochs)
        if self.lr_min is not None and self.lr_max is None and self.lr_from is None:
            raise UsageError(
                "option", "--lr-min", expected="--lr-max next to it", found="--lr-min alone",
                hint="Give both, or neither to run the range test.",
            )  # fmt: skip
        if self.lr_from is not None and (self.lr_min is not None or self.lr_max is not None):
            raise UsageError(
                "option", "--lr-from", expected="no --lr-min or --lr-max next to it", found="both",
                hint="Give the LR bounds, or the run to take them from.",
            )  # fmt: skip
        if self.lr_min is not None and self.lr_max is not None:
            check_order("--lr-min", self.lr_min, "--lr-max", self.lr_max)

    @property
    def resolved_peak_epoch(self) -> float:
        """The peak in epochs: `peak_epoch`, or 5/24 of the epochs."""
        return resolve_peak_epoch(self.peak_epoch, self.epochs)

    @property
    def resolved_ema_epochs(self) -> float:
        """The time constant of the weights' average in epochs: `ema_epochs`, or 1/24 of the epochs."""
        return self.epochs * EMA_FRACTION if self.ema_epochs is None else self.ema_epochs

    @property
    def resolved_temperature(self) -> float:
        """The divisor of the logits: `temperature`, or 0.59 for the label smoothing that it was fitted to, else 1."""
        default = SMOOTHED_TEMPERATURE if self.label_smoothing == FITTED_LABEL_SMOOTHING else 1.0
        return default if self.temperature is None else self.temperature


@apply_recipe
@dataclass(frozen=True, kw_only=True)
class TrainCommandConfig(TrainConfig):
    """The options of `scsuite train`: the settings of a training, its repeats, and the accuracy it has to reach."""

    seeds: int | None = option(
        None, COMPUTE, "Train N times, with seeds --seed, --seed + 1, ..., and report mean and spread.", ge=1, le=1000
    )
    target: float | None = option(
        None, OUTPUT, "Exit with code 7 if the test accuracy (with --seeds the mean) is below this percentage.", ge=0,
        le=100, metavar="PERCENT",
    )  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.target is not None and 0 < self.target <= 1:
            raise UsageError(
                "option", "--target", expected="a percentage above 1", found=self.target,
                hint=f"The target is in percent: write {100 * self.target:g} for {100 * self.target:g} %.",
            )  # fmt: skip
        if self.seeds is not None and self.seed + self.seeds > MAX_SEED:
            raise UsageError(
                "option", "--seed and --seeds", expected="a last seed below 2**63", found=self.seed + self.seeds - 1,
                hint="Lower one of them.",
            )  # fmt: skip

    @property
    def target_accuracy(self) -> float | None:
        """The target as a fraction."""
        return None if self.target is None else round(self.target / 100, 12)

    def training(self, seed: int | None = None) -> TrainConfig:
        """Return the settings of one training, with this seed or with the first one."""
        return TrainConfig.from_dict({**self.to_dict(), "seed": self.seed if seed is None else seed})


def resolve_peak_epoch(peak_epoch: float | None, epochs: int) -> float:
    """Return `peak_epoch`, or for None 5/24 of the epochs."""
    return epochs * PEAK_FRACTION if peak_epoch is None else peak_epoch


def check_peak(peak_epoch: float | None, epochs: int) -> None:
    """Raise UsageError for a peak that is not before the last epoch's end."""
    if peak_epoch is not None and peak_epoch >= epochs:
        raise UsageError(
            "option", "--peak-epoch", expected=f"less than --epochs ({epochs})", found=peak_epoch,
            hint="Leave it out for a peak at 5/24 of the epochs.",
        )  # fmt: skip


def check_order(low_flag: str, low: float, high_flag: str, high: float) -> None:
    """Raise UsageError unless low < high."""
    if low >= high:
        raise UsageError(
            "option", f"{low_flag} and {high_flag}", expected="the first below the second", found=f"{low} and {high}",
            hint="Swap or change them.",
        )  # fmt: skip
