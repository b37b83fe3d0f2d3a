"""The configurations of the commands that train nothing: zigzag, evaluate, gradcam, predict, report.

In: values by keyword. Out: frozen configurations, checked.
"""

from dataclasses import MISSING, dataclass

from scsuite.core.config.fields import COMPUTE, DATA, LEARNING_RATE, OUTPUT, Config, option
from scsuite.core.config.recipe import DEVICES, FITS, PRECISIONS
from scsuite.core.config.training import MAX_PLOTTED_STEPS, check_order, check_peak, resolve_peak_epoch
from scsuite.core.errors import UsageError, did_you_mean

CAM_METHOD = "hirescam"  # scores best on `shapes`, at the network's `cam_layer`; `runs/reference/cams`
CAM_METHODS = ("gradcam", "gradcam++", "hirescam", "layercam", "xgradcam")
LR_POLICIES = ("triangular", "triangular2", "exp-range", "one-cycle")
SELECTIONS = ("misclassified", "correct", "confident", "uncertain", "all")  # or indices, as in 3,14,15
TTA_MODES = ("none", "flip", "flip-shift")


@dataclass(frozen=True, kw_only=True)
class ZigzagConfig(Config):
    """The learning-rate curve to draw."""

    lr_min: float = option(0.04, LEARNING_RATE, "Lower limit.", gt=0, metavar="LR")
    lr_max: float = option(0.4, LEARNING_RATE, "Upper limit.", gt=0, metavar="LR")
    step_size: int = option(490, LEARNING_RATE, "Steps from one limit to the other; 490: 5 epochs of 98 steps.", ge=1)
    cycles: int = option(2, LEARNING_RATE, "Cycles to draw, two step sizes each.", ge=1, le=1000)
    policy: str = option("triangular", LEARNING_RATE, "Shape of the curve.", choices=LR_POLICIES)
    epochs: int = option(24, LEARNING_RATE, "Length of one-cycle.", ge=1, le=100_000)
    peak_epoch: float | None = option(
        None, LEARNING_RATE, "One-cycle peaks at the end of this epoch. (default: 5/24 of the epochs)", gt=0,
        metavar="EPOCH",
    )  # fmt: skip
    steps_per_epoch: int = option(
        98, LEARNING_RATE, "Steps per epoch; 98: 50,000 images in batches of 512.", ge=1, le=10_000_000
    )
    run: str | None = option(
        None, LEARNING_RATE, "Draw this training run: its planned curve and its actual steps.", metavar="RUN"
    )
    out: str | None = option(None, OUTPUT, "Write the figure here too.", metavar="FILE.png|svg|pdf")
    csv: str | None = option(None, OUTPUT, "Write the curve's values here too.", metavar="FILE")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_order("--lr-min", self.lr_min, "--lr-max", self.lr_max)
        check_peak(self.peak_epoch, self.epochs)
        is_one_cycle = self.policy == "one-cycle"
        num_steps = self.epochs * self.steps_per_epoch if is_one_cycle else 2 * self.step_size * self.cycles
        if num_steps > MAX_PLOTTED_STEPS:
            raise UsageError(
                "option", "--epochs and --steps-per-epoch" if is_one_cycle else "--step-size and --cycles",
                expected=f"at most {MAX_PLOTTED_STEPS:,} steps to draw", found=f"{num_steps:,}",
                hint="Lower one of them.",
            )  # fmt: skip

    @property
    def resolved_peak_epoch(self) -> float:
        """The peak of one-cycle in epochs: `peak_epoch`, or 5/24 of the epochs."""
        return resolve_peak_epoch(self.peak_epoch, self.epochs)


@dataclass(frozen=True, kw_only=True)
class NetworkConfig(Config):
    """What evaluate, gradcam and predict share: a trained network, and how it is used."""

    ckpt: str = option(MISSING, DATA, "Run directory or checkpoint file.", metavar="RUN|FILE")
    fit: str | None = option(None, DATA, "How an image becomes 32x32. (default: the run's)", choices=FITS)
    device: str = option("auto", COMPUTE, "Device to compute on.", metavar=DEVICES)
    precision: str | None = option(None, COMPUTE, "Compute precision. (default: the run's)", choices=PRECISIONS)


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig(NetworkConfig):
    """What evaluate and gradcam share: a trained network, and the data of its run unless other data is given."""

    data: str | None = option(
        None, DATA, "Data to use instead of the run's: all labelled images of it, unless it is the training's data,"
        " moved.", metavar="SPEC",
    )  # fmt: skip
    data_dir: str | None = option(None, DATA, "Directory of the CIFAR-10 files.", metavar="DIR")
    cache_dir: str | None = option(None, DATA, "Directory of decoded images.", metavar="DIR", env="SCSUITE_CACHE")
    limit_test: int | None = option(None, DATA, "Use N test images, class-balanced, always the same.", ge=1)


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(CheckpointConfig):
    """Evaluation of a trained network on the test images."""

    tta: str = option("none", COMPUTE, "Test-time augmentation, reported next to the plain result.", choices=TTA_MODES)
    misclassified: int = option(25, OUTPUT, "Number of misclassified images to draw.", ge=0, le=1000)


@dataclass(frozen=True, kw_only=True)
class GradcamConfig(CheckpointConfig):
    """Class activation maps of a trained network."""

    method: str = option(CAM_METHOD, COMPUTE, "How the map is computed.", choices=CAM_METHODS)
    layer: str | None = option(
        None,
        COMPUTE,
        "Layer of the map; several (a,b) are averaged. (default: the network's own)",
        metavar="NAME[,NAME]",
    )
    list_layers: bool = option(
        False, OUTPUT, "List the layers that have a map, and write nothing.", names=("--list-layers",)
    )
    class_: str = option(
        "both",
        COMPUTE,
        "Class that the map explains; name:both is a class called both.",
        metavar="[predicted|actual|both|NAME]",
        names=("--class",),
    )
    select: str = option(
        "misclassified", DATA, "Which test images; INDICES: 3,14,15.", metavar=f"[{'|'.join(SELECTIONS)}|INDICES]"
    )
    images: tuple[str, ...] = option((), DATA, "Your own images instead of test images.", metavar="FILES")
    count: int = option(25, DATA, "Number of images, at most.", ge=1, le=1000)
    difference: bool = option(
        False, OUTPUT, "Draw the difference of the maps for the predicted and the actual class too.",
        names=("--difference",),
    )  # fmt: skip
    save_maps: bool = option(
        False, OUTPUT, "Write the values of the maps too: maps.safetensors.", names=("--save-maps",)
    )
    save_overlays: bool = option(False, OUTPUT, "Write each overlay as an image file too.", names=("--save-overlays",))

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.select not in SELECTIONS and self.indices is None:
            raise UsageError(
                "option", "--select", expected=f"one of {', '.join(SELECTIONS)}, or indices: 3,14,15",
                found=repr(self.select), hint=did_you_mean(self.select, SELECTIONS, otherwise="See --help."),
            )  # fmt: skip
        if self.images:
            self._check_no_test_images()

    def _check_no_test_images(self) -> None:
        """Refuse the options that choose test images next to `images`, which takes their place."""
        given = {
            "--data": self.data, "--limit-test": self.limit_test,
            "--select": None if self.select == SELECTIONS[0] else self.select,
        }  # fmt: skip
        for name, value in given.items():
            if value is not None:
                raise UsageError(
                    "option", name, expected="not with --images, which replaces the test images", found=repr(value),
                    hint="Leave one of them out.",
                )  # fmt: skip

    @property
    def indices(self) -> tuple[int, ...] | None:
        """The indices that `select` lists; None if it is a word."""
        texts = self.select.split(",")
        return tuple(map(int, texts)) if all(text.isascii() and text.isdigit() for text in texts) else None


@dataclass(frozen=True, kw_only=True)
class PredictConfig(NetworkConfig):
    """Predictions of a trained network for images without labels."""

    paths: tuple[str, ...] = option(
        (), DATA, "Image files, folders with their subfolders, archives.", metavar="PATH", is_argument=True
    )
    topk: int = option(1, OUTPUT, "Classes per image, the most probable first.", ge=1, metavar="K")
    tta: str = option("none", COMPUTE, "Test-time augmentation.", choices=TTA_MODES)
    out: str | None = option(None, OUTPUT, "Write the predictions to a file.", metavar="FILE.csv|.json")


@dataclass(frozen=True, kw_only=True)
class ReportConfig(Config):
    """The trainings of a page."""

    runs: tuple[str, ...] = option((), DATA, "Training runs, or a directory of runs.", metavar="RUN", is_argument=True)
    out: str | None = option(None, OUTPUT, "Write the page here too.", metavar="FILE.html")
