"""Settings that several commands share: the data, the device, and what one training step does.

In: values by keyword. Out: frozen configurations, checked.
"""

from dataclasses import dataclass

from scsuite.core.config.fields import COMPUTE, DATA, RECIPE, Config, option

MOMENTUM_MAX = 0.95  # at LRMIN; Smith, https://arxiv.org/abs/1803.09820, section 4.3: high rate, low momentum
MOMENTUM_MIN = 0.85  # at LRMAX; the range test runs at this one
MOMENTUM = 0.9  # without --cycle-momentum

BACKENDS = ("auto", "batched", "albumentations")
DATA_SOURCES = ("cifar10", "shapes")  # or a path
FITS = ("crop", "pad", "stretch")
DEVICES = "[auto|cpu|cuda|cuda:N|mps]"
PRECISIONS = ("auto", "fp32", "bf16", "fp16")
MAX_WIDTH = 16

# Options that no result depends on: a resume may change them, and ranks may differ in them.
RESULT_NEUTRAL_OPTIONS = frozenset({"workers", "data_dir", "cache_dir"})


@dataclass(frozen=True, kw_only=True)
class DataConfig(Config):
    """Which images, and how many of them."""

    data: str = option(
        "cifar10", DATA, "cifar10, shapes, or a folder or archive of train/CLASS/* and test/CLASS/* images.",
        env="SCSUITE_DATA", metavar="SPEC", is_path=True, keywords=DATA_SOURCES,
    )  # fmt: skip
    data_dir: str | None = option(
        None, DATA, "Directory of the CIFAR-10 files. (default: the user's cache directory)", metavar="DIR",
        is_path=True,
    )  # fmt: skip
    cache_dir: str | None = option(
        None, DATA, "Directory of decoded images. (default: the user's cache directory)", metavar="DIR",
        env="SCSUITE_CACHE",
    )  # fmt: skip
    limit_train: int | None = option(None, DATA, "Use N training images, class-balanced, always the same.", ge=1)
    limit_test: int | None = option(None, DATA, "Use N test images, class-balanced, always the same.", ge=1)
    test_split: float = option(
        0.2, DATA, "Fraction of the images held out for testing if the data has no test/ or val/.", gt=0, lt=1
    )
    fit: str = option(
        "crop", DATA, "How an image becomes 32x32: its center square, the whole image with gray borders, or the whole"
        " image stretched.", choices=FITS,
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ComputeConfig(DataConfig):
    """Where and how a network computes."""

    seed: int = option(0, COMPUTE, "Seed of all random numbers.", ge=0, lt=2**63)
    device: str = option("auto", COMPUTE, "Device to compute on.", metavar=DEVICES)
    workers: int | None = option(
        None, COMPUTE, "DataLoader workers (albumentations backend only). (default: by machine)", ge=0, le=256
    )
    precision: str = option("auto", COMPUTE, "Compute precision.", choices=PRECISIONS)
    width: float = option(
        1.0, RECIPE, "Factor on the network's channels; 1 is the assignment's network.", gt=0, le=MAX_WIDTH
    )


@dataclass(frozen=True, kw_only=True)
class RecipeConfig(ComputeConfig):
    """What one training step does; the range test and the training share it."""

    batch_size: int = option(512, RECIPE, "Images per step.", names=("--bs", "--batch-size"), ge=1)
    optimizer: str = option("sgd", RECIPE, "SGD with Nesterov momentum, or AdamW.", choices=("sgd", "adamw"))
    weight_decay: float = option(5e-4, RECIPE, "L2 penalty (sgd) or decoupled weight decay (adamw).", ge=0)
    l1: float = option(0.0, RECIPE, "L1 penalty on the weights, added to the loss.", ge=0)
    label_smoothing: float = option(0.1, RECIPE, "Fraction of the target spread over all classes.", ge=0, lt=1)
    dropout: float = option(0.0, RECIPE, "Fraction of features dropped before fc.", ge=0, lt=1)
    augment: str | None = option(
        None, RECIPE, "Albumentations policy file. (default: crop, flip, 8x8 cutout)", metavar="FILE.yaml", is_path=True
    )
    augment_backend: str = option(
        "auto", RECIPE, "Augment whole batches on the device, or single images in DataLoader workers; auto: batches if"
        " the policy allows it.", choices=BACKENDS,
    )  # fmt: skip
    alternate_flips: bool = option(
        True, RECIPE, "Flip each image in every other epoch, instead of at random (default policy only)."
    )
    gradient_centralization: bool = option(
        True, RECIPE, "Subtract each convolution filter's mean gradient (gradient centralization)."
    )
    whitening_init: bool = option(
        True, RECIPE, "Initialize prep with PCA filters of image patches (whitening); needs width >= 0.84."
    )
    identity_init: bool = option(True, RECIPE, "Initialize part of each layer's filters to the identity (Dirac).")
    ghost_batch_size: int = option(16, RECIPE, "Ghost batch size of batch norm; 0: whole batch.", ge=0)
    bn_weight_decay: bool = option(False, RECIPE, "Apply weight decay to batch norm's weights and biases too.")
    cycle_momentum: bool = option(
        False, RECIPE, "Cycle momentum 0.95 > 0.85 > 0.95 against the learning rate, instead of constant 0.9."
    )
    val_split: int = option(0, DATA, "Hold out N training images for validation.", ge=0)

    @property
    def uses_alternating_flip(self) -> bool:
        """Whether each image is flipped in every other epoch; a policy of the user's decides about flips itself."""
        return self.alternate_flips and self.augment is None
