"""Record which learning rate fastai's rule `valley` reads off the fixed losses of test_baselines.py.

In: the losses. Out: fastai.json in this folder.
fastai installs many packages, so it is not in the dev extra. In an environment that has it:
`python -m tests.studies.record_fastai`, from the root of the repository.
"""

import json

import fastai
import torch
from fastai.callback.schedule import valley as fastai_valley

from tests.studies.test_baselines import FASTAI_CURVES, FASTAI_RECORD


def run_fastai(losses: list[float]) -> int:
    """Return the step that fastai's rule suggests; each step is its own learning rate here."""
    steps = torch.arange(len(losses), dtype=torch.float64)
    lr, _ = fastai_valley(steps, torch.tensor(losses, dtype=torch.float64), len(losses))
    return int(lr)


def main() -> None:
    """Record the step for each curve."""
    steps = {name: run_fastai(list(losses)) for name, losses in FASTAI_CURVES.items()}
    FASTAI_RECORD.write_text(json.dumps({"fastai": fastai.__version__, "steps": steps}) + "\n")


if __name__ == "__main__":
    main()
