"""The images that evaluate and gradcam use: the test images of the training's data, or all images of other data.

In: a trained network and `--data`, if given. Out: a dataset with the network's labels, and lines that say what it is.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from scsuite.cli.console import Terminal
from scsuite.cli.run_output import check_data_exists, relative_path
from scsuite.cli.runs import load_data
from scsuite.core.config import CheckpointConfig, DataConfig
from scsuite.core.runs.summary import as_mapping

if TYPE_CHECKING:
    from scsuite.core.dataset import Dataset
    from scsuite.core.evaluation.evaluate import TrainedModel


def load_evaluation_data(
    command: str, config: CheckpointConfig, trained: "TrainedModel", terminal: Terminal
) -> "Dataset":
    """Load the data of the network's run, or that of --data, with the network's labels; refuse other classes.

    Data with the content of the training's is split as in the training and has the run's limits. Of other data, every
    labelled image is a test image, and only an explicit limit counts.
    """
    explicit = {name: value for name, value in config.to_dict().items() if value is not None}
    run_config = DataConfig.from_dict({**trained.data_config.to_dict(), **explicit})
    if config.data is None:
        check_data_exists(run_config.data, command, "--ckpt", relative_path(config.ckpt))
        data = load_data(run_config, terminal)
        _warn_of_changed_data(run_config, data, trained, terminal)
        data = data.relabelled(trained.class_names, data.name)
    else:
        data = _load_other_data(run_config, config.limit_test, trained.metadata, terminal)
    labels = set(data.test.labels_N.tolist())
    absent = [name for label, name in enumerate(trained.class_names) if label not in labels]
    if absent and not any("no test images of" in note for note in data.notes):  # which has been printed
        from scsuite.core.dataset.split import format_names

        terminal.log_line(f"          no test images of {len(absent)} of the network's classes: {format_names(absent)}")
    return data


def _warn_of_changed_data(config: DataConfig, data: "Dataset", trained: "TrainedModel", terminal: Terminal) -> None:
    """Warn if the data at the run's own place is not what the network was trained on; its test images are used."""
    recorded = as_mapping(trained.metadata.get("data")).get("fingerprint")
    if recorded in (None, data.fingerprint):
        return
    if config.fit != trained.data_config.fit:  # other pixels
        what = f"--fit {config.fit} is not the training's, {trained.data_config.fit}, so the data cannot be compared"
    else:
        what = (
            f"the data at {relative_path(config.data)} is not the training's: its images, labels or names have changed"
            f" (fingerprint {data.fingerprint[:12]}, in the training {str(recorded)[:12]})"
        )
    terminal.log_warning(f"{what}; the test images may be others, or images of the training")


def _load_other_data(
    config: DataConfig, limit_test: int | None, checkpoint: Mapping[str, Any], terminal: Terminal
) -> "Dataset":
    """Load the data of --data, and print which of its images are used."""
    data = load_data(config, terminal, checkpoint=checkpoint)
    if evaluated_images(data) == "test":
        data = data.with_limits(config.limit_train, config.limit_test)
        terminal.log_line(f"          this is the training's data, so its {len(data.test):,} test images are used")
        return data
    num_images = len(data.test)
    data = data.with_limits(None, limit_test)
    which = "all are used" if len(data.test) == num_images else f"{len(data.test):,} are used (--limit-test)"
    terminal.log_line(f"          the content differs from the training's data, so {which}")
    return data


def evaluated_images(data: "Dataset") -> Literal["test", "all"]:
    """Return test for the data of the training, and all for other data, which has no training images."""
    return "test" if len(data.train) else "all"
