"""`scsuite train`: One Cycle training, from nothing or from where a run stopped."""

import math
import reprlib
import signal
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scsuite.cli.begin import (
    RESULT_NEUTRAL_OPTIONS,
    check_ranks_agree,
    create_run,
    dataset_info,
    finish,
    load_data,
    device_info,
    output_for_rank,
    log_figures,
)
from scsuite.cli.lr_range import check_range_test, draw_range_test, run_range_test, write_history
from scsuite.cli.options import OutputOptions, options
from scsuite.cli.console import Terminal
from scsuite.core.config import MIN_RANGE_TEST_STEPS, LrRangeConfig, TrainConfig, flag_name
from scsuite.core.distributed import World, join, torchrun_id, is_restart
from scsuite.core.errors import InputError, UsageError
from scsuite.core.schedule import num_steps_per_epoch

if TYPE_CHECKING:
    from scsuite.core.model.checkpoint import Checkpoint
    from scsuite.core.dataset import Dataset
    from scsuite.core.loop import EpochResult, StepResult, Trainer
    from scsuite.core.runs.rundir import RunDir

COMMIT_SHARE = 0.02  # of the time, at most, goes into commits (design.md)
GRID = 64  # augmented images to look at
ROOM = 8  # lines of a screen that are not for epochs

ResumeOption = Annotated[str | None, typer.Option("--resume", metavar="RUN", help="Go on where a run stopped.")]


@options(TrainConfig, resume=ResumeOption)
def train(config: TrainConfig, output: OutputOptions, resume: str | None) -> None:
    """Train with the One Cycle Policy: one cycle over all epochs, no annihilation."""
    begin = time.perf_counter()
    with join() as world:
        _begin(config, output_for_rank(output, world), resume, begin, world)


def _begin(config: TrainConfig, output: OutputOptions, resume: str | None, begin: float, world: World) -> None:
    """On every rank: a new run, or the rest of one."""
    from scsuite.core.runs.rundir import RunDir, find_unfinished_run, read_result

    terminal = Terminal(output)
    if resume is None and is_restart():
        resume = world.broadcast(lambda: str(find_unfinished_run(output.runs_dir, torchrun_id()) or "")) or None
    if resume is None:
        _train_anew(config, output, terminal, begin, world)
        return
    with RunDir.open(Path(resume), hold=world.is_main_process) as run:
        if run.result() is not None:
            result = read_result(str(run.path), "train")
            _same_settings(run.config(), config, output.given, run.path)
            terminal.print_line(f"finished  {run.path} is complete: nothing to do")
            terminal.print_json(result)
            return
        _go_on(run, config, output, terminal, begin, world)


def _train_anew(config: TrainConfig, output: OutputOptions, terminal: Terminal, begin: float, world: World) -> None:
    from scsuite.core.augment import validate_policy, check_backend
    from scsuite.core.loop import resolve_device

    make_deterministic(config.deterministic)
    device = resolve_device(config.device, config.precision, world)
    found = None if config.lr_from is None else _rates_of(config.lr_from)  # before the data is read, or fetched even
    remarks = validate_policy(config.augment)
    check_backend(config.augment_backend, config.augment)  # refused before the data is read
    data = load_data(config, terminal, world)
    for remark in remarks:
        terminal.log_warning(remark)
    check_range_test(data, range_config(config, data), world)
    if found is not None:
        _warn_of_other_conditions(found.conditions, config, data, terminal)
        terminal.log_line(f"rates     those of {config.lr_from}")
        config = replace(config, lr_min=found.lr_min, lr_max=found.lr_max, lr_from=None)
    check_ranks_agree(world, config, data)
    facts = {**device_info(device, world), "data": dataset_info(data)}
    facts |= {} if world.size == 1 else {"torchrun_id": torchrun_id()}
    with StopRequest(world) as stop:
        if not world.is_main_process:
            _follow(config, data, terminal, stop, None)
            return
        with create_run(output, "train", data.name, config, terminal, **facts) as run:
            _train(run, config, data, terminal, stop, begin, None)


def _go_on(run: "RunDir", config: TrainConfig, output: OutputOptions, terminal: Terminal, begin: float, world: World) -> None:
    """Continue a run in its own directory, under its own settings."""
    from scsuite.core.loop import resolve_device
    from scsuite.core.runs.rundir import latest_checkpoint

    checkpoint, problems = latest_checkpoint(run.path)
    saved = run.config() if checkpoint is None else _agreed(run, checkpoint)
    config = _same_settings(saved, config, output.given, run.path)
    make_deterministic(config.deterministic)
    resolve_device(config.device, config.precision, world)  # a device that is not here: before the data is read
    data = load_data(config, terminal, world)
    check_ranks_agree(world, config, data, state=None if checkpoint is None else checkpoint.path.name)
    if not world.is_main_process:
        with StopRequest(world) as stop:
            _follow(config, data, terminal, stop, checkpoint)
        return
    for problem in problems:
        terminal.log_warning(f"passed over: {problem}")
    if checkpoint is None:
        terminal.attach_run(run)
        terminal.log_warning(f"{run.path} has no checkpoint yet: starting again from step 0")
        run.cut_back(0, 0)
    with StopRequest(world) as stop:
        _train(run, config, data, terminal, stop, begin, checkpoint)


def _agreed(run: "RunDir", checkpoint: "Checkpoint") -> Mapping[str, Any]:
    """The settings in a state file, once config.yaml was found to say the same: a change to it would go unnoticed."""
    written, kept = run.config(), checkpoint.facts["config"]
    for name, value in kept.items():
        if name not in RESULT_NEUTRAL_OPTIONS and written.get(name) != value:
            raise InputError(
                "run", run.path / "config.yaml", expected=f"{name} {value}, as in {checkpoint.path.name}",
                found=reprlib.repr(written.get(name)), hint="Undo the change, or start a new run.",
            )  # fmt: skip
    return dict(kept)


def _same_settings(saved: Mapping[str, Any], config: TrainConfig, given: frozenset[str], run: Path) -> TrainConfig:
    """The run's own configuration; a flag that says something else is refused, but for those that change no number."""
    if missing := [item.name for item in fields(TrainConfig) if item.name not in saved]:
        raise InputError(
            "run", run / "config.yaml", expected="the configuration of a training", found=f"none of {missing[0]}",
            hint="Give a directory that scsuite train made, or go on with the version that began it.",
        )  # fmt: skip
    old = TrainConfig.from_saved(saved, run / "config.yaml")
    for item in fields(TrainConfig):
        was, now = getattr(old, item.name), getattr(config, item.name)
        left_to_find = item.name in ("lr_min", "lr_max", "lr_from") and (now is None or item.name == "lr_from")
        if item.name in given and item.name not in RESULT_NEUTRAL_OPTIONS and was != now and not left_to_find:
            raise UsageError(
                "option", flag_name(item), expected=f"{was}, as {run} was begun with", found=now,
                hint="Leave the option out, or start a new run.",
            )  # fmt: skip
    return replace(old, **{name: getattr(config, name) for name in RESULT_NEUTRAL_OPTIONS & given})


def _train(
    run: "RunDir", config: TrainConfig, data: "Dataset", terminal: Terminal, stop: "StopRequest", begin: float,
    checkpoint: "Checkpoint | None",
) -> None:  # fmt: skip
    """Find the rates if that is left to do, train to the end, and write what came of it."""
    from scsuite.core.loop import Trainer
    from scsuite.core.runs.rundir import KEPT

    if config.lr_max is None:
        config = _find_rates(run, config, data, terminal, stop)
    elif config.lr_min is None:
        terminal.log_line(f"rates     LRMIN is LRMAX / {config.div_factor:g}")
    trainer = Trainer(data, config, stop.world)
    run.check_room((KEPT + 1) * trainer.state_bytes)  # one more while it is written
    if checkpoint is not None:
        trainer.restore(checkpoint)
        terminal.attach_run(run)  # only now: until here an error's line stands alone
        for problem in run.cut_back(trainer.state.step, trainer.num_epochs_done):
            terminal.log_warning(problem)
    else:
        run.write_config(trainer.config)
        _draw_augmented(run, trainer)
    run.update_environment(schedule=trainer.plan(), augment_backend=trainer.engine.facts())
    _introduce(trainer, terminal, run)
    _fit(run, trainer, terminal, stop)
    _finish(run, trainer, terminal, begin)


def _follow(
    config: TrainConfig, data: "Dataset", terminal: Terminal, stop: "StopRequest", checkpoint: "Checkpoint | None"
) -> None:
    """What a rank does that does not lead: the same steps as `_train`, and nothing to say or to write."""
    from scsuite.core.loop import Trainer, fit

    if config.lr_max is None:
        found = run_range_test(data, range_config(config, data), terminal, stop.check, stop.world)
        config = replace(config, lr_min=found.lr_min, lr_max=found.lr_max)
    trainer = Trainer(data, config, stop.world)
    if checkpoint is not None:
        trainer.restore(checkpoint)
    for _ in fit(trainer, should_stop=stop.asked):
        pass
    stop.world.barrier()  # the leader commits before: torchrun ends all when the first rank has left
    if not trainer.finished:
        stop.leave()


def _find_rates(
    run: "RunDir", config: TrainConfig, data: "Dataset", terminal: Terminal, stop: "StopRequest"
) -> TrainConfig:
    """`--lr-max auto`: the range test first, its figure and history in this run."""

    def say() -> None:
        terminal.log_line("stopped   in the range test; begin again in the same directory with:")
        terminal.log_line(f"          scsuite train --resume {run.path}")

    terminal.log_line("rates     not given: finding them by a range test")
    test = range_config(config, data)
    found = run_range_test(data, test, terminal, lambda: stop.check(say), stop.world)
    write_history(run, found)
    figure = draw_range_test(run, found, test)
    for warning in found.warnings:
        terminal.log_warning(warning)
    log_figures(terminal, figure)
    return replace(config, lr_min=found.lr_min, lr_max=found.lr_max)


def range_config(config: TrainConfig, data: "Dataset") -> LrRangeConfig:
    """The range test under the conditions of a training; a short training has a shorter test, within reason."""
    test = LrRangeConfig.from_dict({name: value for name, value in config.to_dict().items() if name != "epochs"})
    num_steps = config.epochs * num_steps_per_epoch(len(data.train) - config.val_split, config.batch_size)
    test = replace(test, train_epochs=config.epochs, steps=min(test.steps, max(MIN_RANGE_TEST_STEPS, num_steps)))
    if config.optimizer == "adamw":  # its steps do not shrink with the gradient: far smaller rates
        test = replace(test, lr_start=test.lr_start / 100, lr_end=test.lr_end / 100)
    return test


@dataclass(frozen=True)
class FoundRates:
    """The pair that an lr-range run found, and what it holds for."""

    lr_min: float
    lr_max: float
    conditions: dict[str, Any]


def _rates_of(spec: str) -> FoundRates:
    """Raises InputError for what is not the whole result of an lr-range run."""
    from scsuite.core.runs.rundir import read_result

    result = read_result(spec, "lr-range")
    pair: list[Any] = [result.get("lr_min"), result.get("lr_max")]
    conditions = result.get("conditions")
    numbers = all(type(rate) in (int, float) for rate in pair)
    if not numbers or not 0 < pair[0] < pair[1] <= sys.float_info.max:
        raise InputError(
            "run", spec, expected="finite rates, 0 < lr_min < lr_max", found=" and ".join(f"{r!r:.40}" for r in pair),
            hint="Run scsuite lr-range again.",
        )  # fmt: skip
    if not isinstance(conditions, dict):
        raise InputError(
            "run", spec, expected="the conditions of its rates", found=f"{conditions!r:.40}",
            hint="Run scsuite lr-range again.",
        )  # fmt: skip
    return FoundRates(pair[0], pair[1], conditions)


def _warn_of_other_conditions(
    theirs: Mapping[str, Any], config: TrainConfig, data: "Dataset", terminal: Terminal
) -> None:
    from scsuite.core.augment import policy_dict
    from scsuite.core.loop import make_policy, split_validation
    from scsuite.core.lr_range.range_test import range_test_conditions

    train_images, _ = split_validation(data.train, config.val_split)
    policy = policy_dict(make_policy(config, train_images))
    mine = range_test_conditions(data, config, policy, epochs=config.epochs)
    for name, value in mine.items():
        if theirs.get(name) != value:
            # Of the data these are sha256 sums, which tell nobody anything.
            was = theirs.get(name, "unknown")  # to an older lr-range
            other = "other data" if name == "data" else f"{name} {was!s:.80}, not {value}"
            terminal.log_warning(f"the rates of {config.lr_from} were found with {other}")


def _introduce(trainer: "Trainer", terminal: Terminal, run: "RunDir") -> None:
    """What will be done: the network, the cycle, where it is computed."""
    from scsuite.core.model import model_summary
    from scsuite.report import tables

    layers = model_summary(trainer.model)
    rows = [(row.name, row.operations, " x ".join(map(str, row.shape)), row.num_parameters) for row in layers]
    terminal.log_table(tables.layers(rows, sum(row.num_parameters for row in layers)))
    config, at_peak = trainer.config, trainer.momentum_at(trainer.peak_step)
    average = trainer.average
    averages = {} if average is None else {"averages": f"the weights, over about the last {average.horizon:,.0f} steps"}
    terminal.log_table(
        tables.key_values(
            {
                "LRMIN": f"{trainer.lr_min:.4g}",
                "LRMAX": f"{trainer.lr_max:.4g} at the end of epoch {config.peak:.3g} of {config.epochs}",
                "momentum": f"{trainer.momentum_at(0):g}, {at_peak:g} at the peak",
                "steps": f"{trainer.num_steps:,}: {trainer.steps_per_epoch} an epoch, batch {config.batch_size}",
                **averages,
                "augments": f"{trainer.engine.name}: {trainer.engine.reason}",
                "computes": f"{trainer.device.device}, {trainer.device.precision}",
                "run": str(run.path),
            }
        )
    )
    if trainer.state.step:
        terminal.log_line(f"resumed   at step {trainer.state.step:,} of {trainer.num_steps:,}")


def _fit(run: "RunDir", trainer: "Trainer", terminal: Terminal, stop: "StopRequest") -> None:
    """Train to the end under the display, with a row a step and an epoch and a commit now and then."""
    from rich.console import Group

    from scsuite.core.loop import fit
    from scsuite.report import tables

    commits = Commits(run, trainer)
    held_out = trainer.eval_split
    rows: list[dict[str, Any]] = []
    with terminal.live_table() as show:

        def on_step(step: "StepResult") -> None:
            run.append_step(step)
            if step.step == 20:
                terminal.log_progress(f"estimate  {time_left(trainer)} at {step.num_images / step.seconds:,.0f} images/s")
            if terminal.is_live:
                shown = rows[-max(1, terminal.console.height - ROOM) :]
                show(Group(tables.epochs(shown, held_out), "", _live_table(trainer, step)))

        for last in fit(trainer, on_step=on_step, should_stop=stop.asked):
            run.append_epoch(last)
            rows.append(asdict(last))
            terminal.log_progress(_epoch_line(trainer, last))
            commits.after_epoch()
    if terminal.is_live and rows:
        terminal.console.print(tables.epochs(rows, held_out))
    commits.now()
    stop.world.barrier()
    if not trainer.finished:
        terminal.log_line(f"stopped   at step {trainer.state.step:,} of {trainer.num_steps:,}; resume with:")
        terminal.log_line(f"          scsuite train --resume {run.path}")
        stop.leave()


class Commits:
    """When the state is written: after an epoch, unless commits would then take more than their share of the time."""

    def __init__(self, run: "RunDir", trainer: "Trainer") -> None:
        self.run, self.trainer = run, trainer
        self.cost, self.last = 0.0, time.perf_counter()
        self.committed: tuple[int, bool] | None = None
        self.best_epoch = trainer.state.best.epoch if trainer.state.best else 0

    def after_epoch(self) -> None:
        """Commit if it is time; best.safetensors too where held-out images chose this epoch."""
        from scsuite.core.model.checkpoint import save_checkpoint

        trainer, best = self.trainer, self.trainer.state.best
        if best is not None and best.selected_on == "val" and best.epoch > self.best_epoch:
            self.best_epoch = best.epoch
            save_checkpoint(self.run.path / "best.safetensors", trainer.weights(), weights_facts(trainer))
        if self.cost <= COMMIT_SHARE * (time.perf_counter() - self.last):
            self.now()

    def now(self) -> None:
        """Commit the whole state."""
        if self.committed == (self.trainer.state.step, self.trainer.awaiting_evaluation):
            return
        self.committed = self.trainer.state.step, self.trainer.awaiting_evaluation
        begin = time.perf_counter()
        self.run.save_state(self.trainer.state.step, self.trainer.tensors(), self.trainer.facts())
        self.last = time.perf_counter()
        self.cost = self.last - begin


def weights_facts(trainer: "Trainer") -> dict[str, Any]:
    """A checkpoint's facts without the position, for weights alone."""
    return {name: value for name, value in trainer.facts().items() if name != "state"}


def _finish(run: "RunDir", trainer: "Trainer", terminal: Terminal, begin: float) -> None:
    from statistics import median

    from scsuite.core.model.checkpoint import save_checkpoint
    from scsuite.report import words

    path = run.path / "model.safetensors"
    save_checkpoint(path, trainer.weights(), weights_facts(trainer))
    figure = draw_training(run, trainer)
    row = run.epochs()[-1]
    best = trainer.state.best
    assert best is not None
    keys = ["test_accuracy", "test_loss", "train_loss", "train_accuracy"]
    keys += [] if trainer.average is None else ["test_accuracy_no_ema", "test_loss_no_ema"]
    final = {key: float(row[key]) for key in keys}
    result = {
        "command": "train",
        "run_dir": str(run.path),
        "epochs": trainer.config.epochs,
        "lr_min": trainer.lr_min,
        "lr_max": trainer.lr_max,
        "images_per_second": median(trainer.state.speeds) if trainer.state.speeds else None,
        "final": final,
        "best": {"epoch": best.epoch, f"{best.selected_on}_accuracy": best.accuracy, "selected_on": best.selected_on},
        "checkpoint": str(path),
    }
    chosen = "held-out images" if best.selected_on == "val" else "the test images, so no honest figure"
    accuracy = words.percent(final["test_accuracy"])
    terminal.log_line(f"final     test accuracy {accuracy} after epoch {trainer.config.epochs}")
    if trainer.average is not None:
        raw = words.percent(final["test_accuracy_no_ema"])
        terminal.log_line(f"          of the averaged weights; those of the last step: {raw}")
    terminal.log_line(f"best      {words.percent(best.accuracy)} after epoch {best.epoch}, chosen on {chosen}")
    num_classes, num_images = len(trainer.data.class_names), len(trainer.val or trainer.data.test)
    if best.accuracy <= guessing(num_classes, num_images):
        terminal.log_warning(f"the network learned nothing: no epoch was better than guessing one of {num_classes} classes")
    log_figures(terminal, figure, *([augmented] if (augmented := run.figure("augmented")).exists() else []))
    terminal.log_line(f"weights   {path}")
    finish(run, terminal, result, begin)


def guessing(num_classes: int, num_images: int) -> float:
    """The accuracy that a guess among equally frequent classes stays below, 98 times in 100: mean and 2 deviations."""
    chance = 1 / num_classes
    return chance + 2 * math.sqrt(chance * (1 - chance) / num_images)


def draw_training(run: "RunDir", trainer: "Trainer") -> Path:
    """Loss, accuracy, rate and momentum over the whole run, from its rows."""
    from scsuite.report import figures

    epochs, steps = run.epochs(), run.steps()
    held_out = trainer.eval_split
    path = run.figure("training")
    figures.training(
        path,
        epochs=[int(row["epoch"]) for row in epochs],
        train_loss=[float(row["train_loss"]) for row in epochs],
        test_loss=[float(row[f"{held_out}_loss"]) for row in epochs],
        train_accuracy=[float(row["train_accuracy"]) for row in epochs],
        test_accuracy=[float(row[f"{held_out}_accuracy"]) for row in epochs],
        steps=[int(row["step"]) for row in steps],
        lrs=[float(row["lr"]) for row in steps],
        momenta=[float(row["momentum"]) for row in steps],
        steps_per_epoch=trainer.steps_per_epoch,
        held_out=held_out,
    )
    return path


def _draw_augmented(run: "RunDir", trainer: "Trainer") -> None:
    """A grid of training images as the network will see them in its first epoch."""
    import numpy as np

    from scsuite.core.augment import denormalise
    from scsuite.report import figures

    num_images = len(trainer.train)
    shown = trainer.loader.fetch(0, np.arange(0, num_images, max(1, num_images // GRID))[:GRID])
    figures.image_grid(
        denormalise(shown.images_NCHW, trainer.mean, trainer.std),
        run.figure("augmented"),
        titles=[trainer.data.class_names[label] for label in shown.labels_N.tolist()],
        title="Training images, augmented",
    )


def _epoch_line(trainer: "Trainer", last: "EpochResult") -> str:
    from scsuite.report import tables

    held_out = trainer.eval_split
    return tables.epoch_line(
        epoch=last.epoch, epochs=trainer.config.epochs, lr=last.lr, momentum=last.momentum, train_loss=last.train_loss,
        train_accuracy=last.train_accuracy, test_loss=getattr(last, f"{held_out}_loss"),
        test_accuracy=getattr(last, f"{held_out}_accuracy"), images_per_second=last.images_per_second,
        seconds=last.seconds, held_out=held_out,
    )  # fmt: skip


def _live_table(trainer: "Trainer", step: "StepResult") -> Any:
    from scsuite.report import tables

    sums = trainer.state.sums
    return tables.progress(
        epoch=step.step // trainer.steps_per_epoch + 1, epochs=trainer.config.epochs, step=step.step + 1,
        steps=trainer.num_steps, lr=step.lr, momentum=step.momentum, loss=sums.loss / sums.num_images,
        accuracy=sums.correct / sums.num_images, images_per_second=step.num_images / step.seconds,
        left=time_left(trainer),
    )  # fmt: skip


def time_left(trainer: "Trainer") -> str:
    """The steps that are left at the median pace so far, evaluation left out; in words."""
    from statistics import median

    if not trainer.state.speeds:
        return "..."
    images = (trainer.num_steps - trainer.state.step) * len(trainer.train) / trainer.steps_per_epoch
    minutes, seconds = divmod(round(images / median(trainer.state.speeds[-50:])), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min left" if hours else f"{minutes} min {seconds:02} s left"


def make_deterministic(wanted: bool) -> None:
    """Bit-identical repeats on CUDA; on the CPU they are so already. https://pytorch.org/docs/stable/notes/randomness.html."""
    import os

    import torch

    if wanted:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = not wanted


class StopRequest:
    """While entered, SIGINT, SIGTERM and SIGHUP only note their number; a second SIGINT interrupts at once."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.signum: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        for name in ("SIGINT", "SIGTERM", "SIGHUP"):
            if hasattr(signal, name):
                number = getattr(signal, name)
                if name == "SIGHUP" and signal.getsignal(number) == signal.SIG_IGN:  # nohup
                    continue
                try:
                    self._before[number] = signal.signal(number, self._note)
                except ValueError:  # not the main thread: then there is nothing to note
                    break
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, signum: int, _frame: FrameType | None) -> None:
        if signum == signal.SIGINT and self.signum is not None:
            raise KeyboardInterrupt
        self.signum = signum

    def asked(self) -> bool:
        """Whether any rank got a signal: they ask each other at the same step, and leave by the same code."""
        agreed = self.world.all_reduce_max(self.signum or 0)
        if agreed:  # else one may have come in the meantime: it counts at the next step
            self.signum = agreed
        return bool(agreed)

    def check(self, say: Callable[[], None] = lambda: None) -> None:
        """Say so and leave, if that was asked for."""
        if self.asked():
            say()
            self.leave()

    def leave(self) -> None:
        """End the process with the signal's exit code."""
        raise SystemExit(128 + (self.signum or signal.SIGINT))
