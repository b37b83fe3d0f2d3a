"""The figures and the timeline of a training, made after its result is on disk: matplotlib takes a second to import.

In: a run directory and its finished trainer. Out: PNG files; the entry `timeline` of environment.json.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from scsuite.cli.train_session import Session

if TYPE_CHECKING:
    from scsuite.core.runs.rundir import RunDir
    from scsuite.core.training.trainer import Trainer

NUM_PREVIEW_IMAGES = 64
FIGURES = ("training", "augmented", "lr-range")  # the last one is of the range test


def draw_figures(run: "RunDir", trainer: "Trainer", session: Session, accuracy: float) -> list[Path]:
    """Draw the training and its augmented images, after the result was written; return the paths of all figures."""
    session.mark("result")
    from scsuite.report import figures
    from scsuite.report.formatting import footer

    text = footer(run.path, data=trainer.data.name, seed=trainer.config.seed, accuracy=accuracy)
    figures.save_figure(trainer.plot(), run.figure_path("training"), text)
    _draw_augmented(run, trainer)
    return [path for name in FIGURES if (path := run.figure_path(name)).exists()]


def write_timeline(run: "RunDir", trainer: "Trainer", session: Session) -> None:
    """Write when each stage ended, and the time of all evaluations and all checkpoints."""
    session.mark("figures")
    num_images = len(trainer.setup.train)
    steps_s = sum(num_images / epoch.images_per_second for epoch in trainer.epochs)
    evaluations_s = sum(epoch.seconds for epoch in trainer.epochs) - steps_s
    totals = {"evaluations": round(evaluations_s, 3), "checkpoints": round(trainer.checkpoint_seconds, 3)}
    run.update_environment(timeline={"seconds_since_start": session.timeline, "seconds_in_all": totals})


def _draw_augmented(run: "RunDir", trainer: "Trainer") -> None:
    """Draw training images as the network sees them in its first epoch."""
    import numpy as np

    from scsuite.core.augment import denormalise
    from scsuite.report import figures, formatting

    setup = trainer.setup
    num_images = len(setup.train)
    indices_N = np.arange(0, num_images, max(1, num_images // NUM_PREVIEW_IMAGES))[:NUM_PREVIEW_IMAGES]
    batch = setup.loader.fetch(0, indices_N)
    figure = figures.image_grid(
        denormalise(batch.images_NCHW, setup.mean, setup.std),
        titles=[setup.class_names[label] for label in batch.labels_N.tolist()],
        title="Training images, augmented",
    )
    footer = formatting.footer(run.path, data=trainer.data.name, seed=trainer.config.seed)
    figures.save_figure(figure, run.figure_path("augmented"), footer)
