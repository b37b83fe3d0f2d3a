"""The training loop: steps, the evaluation after each epoch, rows and checkpoints of a run directory.

In: a `Trainer`, and a run directory if there is one. Out: the trainer at its end, or where a stop was requested.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

from scsuite.core.device import deterministic_algorithms
from scsuite.core.errors import DivergedError
from scsuite.core.evaluation.metrics import majority_fraction
from scsuite.core.model.network import temperature_of
from scsuite.core.runs.environment import dataset_info, device_info
from scsuite.core.runs.results import EpochResult, FinalMetrics, StepResult, StepRow, TrainResult
from scsuite.core.runs.rundir import RunDir
from scsuite.core.training.checkpoint_schedule import CheckpointSchedule, check_checkpoint_size
from scsuite.core.training.loader import Batch
from scsuite.core.training.state import BestEpoch, EpochTotals
from scsuite.core.training.step import StepOutput, launch_step, read_step_outputs
from scsuite.core.training.trainer import Trainer
from scsuite.core.training.workers import WorkerError

OnStep = Callable[[StepResult], None]
OnEpoch = Callable[[EpochResult], None]
ShouldStop = Callable[[], bool]


def fit(
    trainer: Trainer,
    run: RunDir | None = None,
    *,
    on_step: OnStep | None = None,
    on_epoch: OnEpoch | None = None,
    should_stop: ShouldStop | None = None,
) -> None:
    """Train to the end, or until `should_stop` returns True; see `Trainer.fit`.

    With `run` each step and epoch is a row of its CSV files, and the state is saved from time to time and at the end.
    With several ranks `should_stop` must return the same on all of them.
    """
    schedule = None if run is None else CheckpointSchedule(run, trainer)

    def record_step(result: StepResult) -> None:
        trainer.steps.append(StepRow(result.step, result.lr, result.momentum, result.loss))
        if run is not None:
            run.append_step(result)
        if on_step is not None:
            on_step(result)

    while not trainer.finished:
        with deterministic_algorithms(trainer.config.deterministic):
            if not trainer.awaiting_evaluation and _train_epoch(trainer, record_step, should_stop):
                break
            try:
                result = _evaluate_epoch(trainer, should_stop)
            except _StopRequested:
                break
        trainer.epochs.append(result)
        if run is not None:
            run.append_epoch(result)
        if on_epoch is not None:
            on_epoch(result)
        if schedule is not None:
            schedule.after_epoch()
    if schedule is not None:
        schedule.save()
    trainer.world.barrier()  # rank 0 has saved when it arrives here: torchrun stops all ranks after the first one exits


class _StopRequested(Exception):  # noqa: N818 - not an error
    """A stop was requested during an evaluation."""


def _train_epoch(trainer: Trainer, on_step: OnStep, should_stop: ShouldStop | None) -> bool:
    """Do the remaining steps of an epoch; return True if a stop was requested."""
    steps_per_epoch, loader = trainer.cycle.steps_per_epoch, trainer.setup.loader
    epoch, first_batch = divmod(trainer.state.step, steps_per_epoch)
    start_time = time.perf_counter()
    in_flight: list[tuple[StepOutput, int]] = []  # steps whose results were not read yet, and their number of images
    for batch in _batches_until_stop(trainer, epoch, first_batch, should_stop):
        if batch is None:
            for result in _collect_steps(trainer, in_flight, start_time):
                on_step(result)
            return True
        step = trainer.state.step + len(in_flight)
        output = _launch(trainer, batch, step)
        if trainer.ema is not None:
            trainer.ema.update(trainer.raw_model, step)
        in_flight.append((output, loader.batch_size_at(step)))
        is_last = step + 1 == (epoch + 1) * steps_per_epoch
        if len(in_flight) < trainer.setup.device.max_steps_in_flight and not is_last:
            continue
        for result in _collect_steps(trainer, in_flight, start_time):
            on_step(result)
        in_flight.clear()
        if should_stop is not None and should_stop():
            return True
        start_time = time.perf_counter()
    return False


def _launch(trainer: Trainer, batch: Batch, step: int) -> StepOutput:
    """Launch a step call by call, or as a CUDA graph."""
    lr = trainer.cycle.lr_at(step)
    if trainer.graphed_step is not None:
        return trainer.graphed_step.launch(batch, lr)
    return launch_step(trainer.setup, batch, step, lr, trainer.cycle.momentum_at(step))


def _batches_until_stop(
    trainer: Trainer, epoch: int, first_batch: int, should_stop: ShouldStop | None
) -> Iterator[Batch | None]:
    """Yield the batches of an epoch; None if the workers failed after a stop was requested, so that it still counts."""
    try:
        yield from trainer.setup.loader.epoch(epoch, first_batch)
    except WorkerError:
        # With several ranks the question has to be asked on all of them; torchrun ends the others after this error.
        if trainer.world.size > 1 or should_stop is None or not should_stop():
            raise
        yield None


def _collect_steps(
    trainer: Trainer, in_flight: list[tuple[StepOutput, int]], start_time: float
) -> Iterator[StepResult]:
    """Wait for launched steps and count them. Time runs from the end of the steps before: waiting for data counts."""
    if not in_flight:
        return
    values = read_step_outputs([output for output, _ in in_flight])
    state, seconds = trainer.state, (time.perf_counter() - start_time) / len(in_flight)
    for value, (_, num_images) in zip(values, in_flight, strict=True):
        lr = trainer.cycle.lr_at(state.step)
        if value is None:
            raise DivergedError(
                "training diverged", f"step {state.step}", expected="a finite loss and gradient",
                found=f"NaN or infinity at learning rate {lr:.4g}",
                hint="Lower --lr-max, or let the range test find it.",
            )  # fmt: skip
        result = StepResult(state.step, lr, trainer.cycle.momentum_at(state.step), *value, num_images, seconds)
        if state.step > 0:  # the first step includes compiling kernels and starting workers
            state.images_per_second.append(num_images / seconds)
        state.step += 1
        state.totals = state.totals.add(result)
        yield result


def _evaluate_epoch(trainer: Trainer, should_stop: ShouldStop | None) -> EpochResult:
    """Evaluate the epoch whose steps are done, and update the best epoch."""

    def check_stop() -> None:
        if should_stop is not None and should_stop():
            raise _StopRequested

    state, totals, data, val = trainer.state, trainer.state.totals, trainer.data, trainer.setup.val
    epoch = state.step // trainer.cycle.steps_per_epoch  # from 1: its last step is done
    start_time = time.perf_counter()
    is_last_epoch = state.step == trainer.cycle.num_steps
    # With --val-split the test images are used once, at the end. Without it they are evaluated after every epoch.
    on_val = None if val is None else trainer.evaluate(val, on_batch=check_stop)
    on_test = trainer.evaluate(data.test, on_batch=check_stop) if val is None or is_last_epoch else None
    without_ema = None
    if trainer.ema is not None and is_last_epoch:
        without_ema = trainer.evaluate(data.test, on_batch=check_stop, model=trainer.raw_model)
    evaluation = on_test if on_val is None else on_val
    assert evaluation is not None
    if state.best is None or evaluation.accuracy > state.best.accuracy:
        state.best = BestEpoch(epoch, evaluation.accuracy, trainer.eval_split)
    state.totals = EpochTotals()
    return EpochResult(
        epoch=epoch,
        step=state.step,
        lr=trainer.cycle.lr_at(state.step - 1),
        momentum=trainer.cycle.momentum_at(state.step - 1),
        train_loss=totals.loss / totals.num_images,
        train_accuracy=totals.num_correct / totals.num_images,
        test_loss=None if on_test is None else on_test.loss,
        test_accuracy=None if on_test is None else on_test.accuracy,
        images_per_second=totals.num_images / totals.seconds,
        seconds=totals.seconds + time.perf_counter() - start_time,
        val_loss=None if on_val is None else on_val.loss,
        val_accuracy=None if on_val is None else on_val.accuracy,
        test_loss_no_ema=None if without_ema is None else without_ema.loss,
        test_accuracy_no_ema=None if without_ema is None else without_ema.accuracy,
        test_balanced_accuracy=None if on_test is None else on_test.balanced_accuracy,
    )


def train_in_new_run(
    runs_dir: Path,
    trainer: Trainer,
    *,
    on_step: OnStep | None = None,
    on_epoch: OnEpoch | None = None,
    should_stop: ShouldStop | None = None,
) -> None:
    """Train in a new directory under `runs_dir`; model.safetensors and result.json are written if it finishes."""
    start_time = time.perf_counter()
    check_checkpoint_size(trainer.raw_model, trainer.config, trainer.data.class_names)
    environment = {**device_info(trainer.setup.device, trainer.world), "data": dataset_info(trainer.data)}
    environment |= run_environment(trainer)
    with RunDir.start(runs_dir, "train", trainer.data.name, trainer.config, environment) as run:
        fit(trainer, run, on_step=on_step, on_epoch=on_epoch, should_stop=should_stop)
        if trainer.finished:
            run.write_result(finish_run(run, trainer, start_time))


def finish_run(run: RunDir, trainer: Trainer, start_time: float) -> TrainResult:
    """Write model.safetensors, and return the result of a finished training."""
    path = run.path / "model.safetensors"
    trainer.save(path, weights_only=True)
    best, last = trainer.state.best, trainer.epochs[-1]
    assert best is not None and last.test_accuracy is not None and last.test_loss is not None
    assert last.test_balanced_accuracy is not None
    assert trainer.config.lr_min is not None and trainer.config.lr_max is not None
    return TrainResult(
        run_dir=str(run.path),
        seconds=time.perf_counter() - start_time,
        epochs=trainer.config.epochs,
        seed=trainer.config.seed,
        device=str(trainer.setup.device.device),
        lr_min=trainer.config.lr_min,
        lr_max=trainer.config.lr_max,
        images_per_second=trainer.state.median_images_per_second,
        temperature=temperature_of(trainer.model),
        final=FinalMetrics(
            last.test_accuracy, last.test_loss, last.train_loss, last.train_accuracy, last.test_accuracy_no_ema,
            last.test_loss_no_ema, last.test_balanced_accuracy,
        ),
        best={"epoch": best.epoch, f"{best.selected_on}_accuracy": best.accuracy, "selected_on": best.selected_on},
        checkpoint=str(path),
    )  # fmt: skip


def run_environment(trainer: Trainer) -> dict[str, object]:
    """Return the entries of environment.json that are known once the trainer is built."""
    num_parameters = sum(parameter.numel() for parameter in trainer.raw_model.parameters())
    return {
        "one_cycle": asdict(trainer.cycle),
        "augment_backend": trainer.setup.backend.to_dict(),
        "num_parameters": num_parameters,
        "majority_fraction": majority_fraction((trainer.setup.val or trainer.data.test).labels_N),
    }
