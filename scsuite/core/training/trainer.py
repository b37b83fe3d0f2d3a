"""A training as one object: data, set-up, schedule, averaged weights and position.

In: a dataset and a `TrainConfig` whose learning rates are set. Out: a `Trainer`; `training.loop` runs its steps.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from scsuite.core.config import DATA_SOURCES, MOMENTUM, MOMENTUM_MAX, MOMENTUM_MIN, TrainConfig
from scsuite.core.dataset import Dataset, Split
from scsuite.core.distributed import SINGLE_PROCESS, World
from scsuite.core.errors import UsageError, require_type
from scsuite.core.evaluation.metrics import Evaluation, majority_fraction
from scsuite.core.model.checkpoint import EMA_PREFIX, MODEL_PREFIX, save_checkpoint
from scsuite.core.model.ema import EMA
from scsuite.core.runs.results import EpochResult, StepResult, StepRow, TrainHistory
from scsuite.core.schedule import OneCycle
from scsuite.core.training.own_network import own_network_config
from scsuite.core.training.setup import make_setup
from scsuite.core.training.state import TrainState, checkpoint_metadata, optimizer_tensors, with_prefix
from scsuite.core.training.step_graph import make_graphed_step

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Trainer:
    """One training with the One Cycle Policy.

    `model` is the network to evaluate: the averaged weights if there is an average, else the raw weights.
    `raw_model` is the network that the optimizer updates. `epochs` and `steps` are the history so far.

    Args:
        data: Training and test images.
        config: The recipe; `lr_max` must be set, for example from `range_test`.
        world: The ranks that share the work.
        model: Your own network, from normalised images_NCHW of 3 x 32 x 32 to logits_NK; default: scsuite's. It is
            moved to the device and trained in place. The options of scsuite's network (width, dropout, initialisation,
            ghost batch norm, temperature) do not apply. torch's global random state is set before each of its steps.

    Raises:
        UsageError: For settings that the data or this machine does not allow, and a network that gives other outputs.
        InputError: For a bad augmentation policy file.

    Example:
        >>> data = load_dataset("shapes", limit_train=2000, limit_test=500)
        >>> trainer = Trainer(data, TrainConfig(epochs=3, width=0.25, batch_size=64, lr_max=0.3))
        >>> trainer.fit()
        >>> trainer.evaluate().accuracy
        >>> trainer.save("shapes.safetensors")
    """

    def __init__(
        self, data: Dataset, config: TrainConfig, world: World = SINGLE_PROCESS, *, model: nn.Module | None = None
    ) -> None:
        self.data, self.config, self.world = data, _complete_config(config, data, model), world
        momentum = MOMENTUM_MAX if config.cycle_momentum else MOMENTUM
        self.setup = make_setup(data, self.config, momentum, world, model, self.config.resolved_temperature)
        self.cycle = _make_cycle(self.config, self.setup.loader.steps_per_epoch)
        self.raw_model, self.state = self.setup.model, TrainState()
        time_constant_steps = config.resolved_ema_epochs * self.cycle.steps_per_epoch
        self.ema = None if time_constant_steps <= 1 else EMA(self.raw_model, time_constant_steps)  # 1: the raw weights
        self.graphed_step = make_graphed_step(self.config, self.setup)
        self.epochs: list[EpochResult] = []
        self.steps: list[StepRow] = []
        self.checkpoint_seconds = 0.0  # of writing checkpoints, in this process

    @property
    def model(self) -> nn.Module:
        """The network to evaluate."""
        return self.raw_model if self.ema is None else self.ema.model

    @property
    def eval_split(self) -> str:
        """The split that each epoch is evaluated on: val if --val-split holds images out, else test."""
        return "test" if self.setup.val is None else "val"

    @property
    def awaiting_evaluation(self) -> bool:
        """Whether all steps of an epoch are done and its evaluation is not."""
        return self.state.totals.num_images == len(self.setup.train)

    @property
    def num_epochs_done(self) -> int:
        """Epochs whose evaluation is done."""
        return self.state.step // self.cycle.steps_per_epoch - self.awaiting_evaluation

    @property
    def finished(self) -> bool:
        """Whether the last epoch and its evaluation are done."""
        return self.state.step >= self.cycle.num_steps and not self.awaiting_evaluation

    def fit(
        self,
        runs_dir: str | Path | None = None,
        *,
        on_step: Callable[[StepResult], None] | None = None,
        on_epoch: Callable[[EpochResult], None] | None = None,
        should_stop: Callable[[], bool] | None = None,
    ) -> list[EpochResult]:
        """Train from the current position to the end, or until `should_stop` returns True, inside an epoch too.

        Args:
            runs_dir: Write a run directory there, with checkpoints, as `scsuite train` does; None writes nothing.
            on_step: Called with each step's result.
            on_epoch: Called with each epoch's result, after its evaluation.
            should_stop: Called after each step (on an accelerator, every few steps), and in an evaluation before each
                batch.

        Returns:
            The results of all epochs so far.

        Raises:
            DivergedError: When a loss or gradient becomes NaN or infinite; the weights are those of the step before.
            OutputError: When a file cannot be written.
        """
        from scsuite.core.training.loop import fit, train_in_new_run

        train = fit if runs_dir is None else partial(train_in_new_run, Path(runs_dir))
        train(self, on_step=on_step, on_epoch=on_epoch, should_stop=should_stop)
        return self.epochs

    def evaluate(
        self,
        split: Split | None = None,
        *,
        tta: str = "none",
        model: nn.Module | None = None,
        on_batch: Callable[[], None] | None = None,
    ) -> Evaluation:
        """Evaluate `model` (default: `self.model`) on a split (default: the test images); see `scsuite.evaluate`."""
        split = self.data.test if split is None else split
        return self.setup.evaluate(model or self.model, split, tta=tta, on_batch=on_batch)

    def save(self, path: str | Path, *, weights_only: bool = False) -> None:
        """Write the complete state, or only the weights of `model`, to a safetensors file. Raises OutputError."""
        tensors = with_prefix(MODEL_PREFIX, self.model) if weights_only else self.state_tensors()
        save_checkpoint(Path(path), tensors, self.metadata(with_state=not weights_only))

    def resume(self, run: str | Path) -> "Trainer":
        """Continue from a run directory or a file that `save` wrote.

        Args:
            run: A run directory (its newest intact checkpoint) or a file with a complete state.

        Returns:
            This trainer.

        Raises:
            InputError: For a file without a state, or of a run on other data or under other settings.
        """
        from scsuite.core.training.resume import resume

        resume(self, Path(run))
        return self

    def plot(self) -> "Figure":
        """Return a figure of loss, accuracy and learning rate over the training so far."""
        from scsuite.report.figures import training

        return training(self.history())

    def history(self) -> TrainHistory:
        """Return all epochs and steps so far."""
        labels_N = (self.setup.val or self.data.test).labels_N
        sizes = self.cycle.steps_per_epoch, self.eval_split, len(self.data.class_names), majority_fraction(labels_N)
        return TrainHistory(tuple(self.epochs), tuple(self.steps), *sizes)

    def metadata(self, *, with_state: bool = True) -> dict[str, Any]:
        """Return what a checkpoint records."""
        return checkpoint_metadata(self.data, self.config, self.setup, self.model, self.state if with_state else None)

    def state_tensors(self) -> dict[str, Tensor]:
        """Return all tensors that a resume needs: weights, their average, the state of optimizer and scaler."""
        average = {} if self.ema is None else with_prefix(EMA_PREFIX, self.ema.model)
        return {**with_prefix(MODEL_PREFIX, self.raw_model), **average, **optimizer_tensors(self.setup)}


def _complete_config(config: TrainConfig, data: Dataset, model: nn.Module | None) -> TrainConfig:
    """Return the configuration with both learning rates and the data that is used. Raises UsageError without LRMAX."""
    require_type("data", data, Dataset)
    require_type("config", config, TrainConfig)
    if config.lr_max is None:
        hint = "Run the range test: scsuite.range_test in Python, scsuite lr-range as a command."
        raise UsageError("option", "--lr-max", expected="a learning rate", found="none", hint=hint)
    lr_min = config.lr_max / config.div_factor if config.lr_min is None else config.lr_min
    if model is not None:
        config = own_network_config(config, stacklevel=4)
    # A configuration made in Python may have the default data, where the dataset is another.
    source = data.name if config.data in DATA_SOURCES else config.data
    return replace(config, lr_min=lr_min, data=source)


def _make_cycle(config: TrainConfig, steps_per_epoch: int) -> OneCycle:
    assert config.lr_min is not None and config.lr_max is not None
    momentum_max, momentum_min = (MOMENTUM_MAX, MOMENTUM_MIN) if config.cycle_momentum else (MOMENTUM, MOMENTUM)
    return OneCycle.from_epochs(
        lr_min=config.lr_min, lr_max=config.lr_max, epochs=config.epochs, peak_epoch=config.peak_epoch,
        steps_per_epoch=steps_per_epoch, momentum_max=momentum_max, momentum_min=momentum_min,
    )  # fmt: skip
