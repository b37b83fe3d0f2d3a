"""Command-line arguments of tiny trainings on `shapes`, shared by the tests of the program and by the fault cases.

A run takes a second or two. All use one thread, no worker process and the CPU unless the name says otherwise.
"""

MODEL_ARGS = ("--width", "0.05", "--workers", "0", "--device", "cpu")

# 200 training images in batches of 64: 4 steps per epoch.
TINY_ARGS = ("--data", "shapes", "--limit-train", "200", "--limit-test", "100", *MODEL_ARGS, "--bs", "64")
TINY_TRAIN_ARGS = ("train", *TINY_ARGS, "--epochs", "2", "--lr-max", "0.1")
TINY_AUTO_LR_ARGS = ("train", *TINY_ARGS, "--epochs", "2")  # runs the range test first
TINY_LR_RANGE_ARGS = ("lr-range", *TINY_ARGS)

# 100 training images in batches of 16: 7 steps per epoch; small files, for runs that are stopped, killed or damaged.
FAULT_DATA_ARGS = ("--data", "shapes", "--limit-train", "100", "--limit-test", "50", *MODEL_ARGS, "--bs", "16")
FAULT_ARGS = ("train", *FAULT_DATA_ARGS)
FAULT_TRAIN_ARGS = (*FAULT_ARGS, "--epochs", "1", "--lr-max", "0.1")

# 3 epochs, 21 steps; with dropout and a weight average, so that a resumed run must restore all kinds of state.
RESUME_EPOCHS, STEPS_PER_EPOCH = 3, 7
RESUME_STEPS = RESUME_EPOCHS * STEPS_PER_EPOCH
RESUME_AUTO_LR_ARGS = (*FAULT_ARGS, "--epochs", str(RESUME_EPOCHS))
RESUME_ARGS = (*RESUME_AUTO_LR_ARGS, "--lr-max", "0.1", "--dropout", "0.1", "--ema-epochs", "1")
RESUME_ALBUMENTATIONS_ARGS = (*RESUME_ARGS, "--augment-backend", "albumentations")
RESUME_WORKER_ARGS = (*RESUME_ALBUMENTATIONS_ARGS, "--workers", "1")

# 300 images: 19 steps per epoch; long enough to be killed at random times.
SOAK_STEPS = 20 * 19
SOAK_ARGS = (*FAULT_ARGS, "--limit-train", "300", "--epochs", "20", "--lr-max", "0.1")

# The shortest training on other data.
ONE_EPOCH_ARGS = (*MODEL_ARGS, "--epochs", "1", "--lr-max", "0.1", "--bs", "4")


def without_option(arguments: tuple[str, ...], *options: str) -> tuple[str, ...]:
    """The same arguments without these options and their values."""
    skipped = {position + offset for position, word in enumerate(arguments) if word in options for offset in (0, 1)}
    return tuple(word for position, word in enumerate(arguments) if position not in skipped)
