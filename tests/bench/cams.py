"""Which layer and method of Grad-CAM can be trusted most: every one's scores on `shapes`, whose objects are known.

    python -m tests.bench.cams RUN [RUN ...] > scores.csv

In: trainings on `shapes`. Out: a row for each run, layer and method, of the maps for the class that the network said
on 500 test images (deletion and insertion: on the first 100).
"""

import csv
import sys
from dataclasses import asdict
from pathlib import Path

import torch

from scsuite.core.augment import normalise
from scsuite.core.cam import grad_cam, trust
from scsuite.core.model.checkpoint import load_checkpoint
from scsuite.core.config import CAM_METHODS
from scsuite.core.dataset import load_dataset

LAYERS = ("prep", "layer1", "layer2", "layer3", "layer2,layer3", "layer1,layer2,layer3")
NUM_IMAGES = 500


def main(runs: list[str]) -> None:
    test = load_dataset("shapes", limit_test=NUM_IMAGES).test
    rows = csv.writer(sys.stdout)
    for run in runs:
        model, facts = load_checkpoint(Path(run) / "model.safetensors")
        images_NCHW = normalise(test.images_NHWC, facts["mean"], facts["std"])
        with torch.inference_mode():
            predicted = model.eval()(images_NCHW).argmax(dim=1).tolist()
        for layer in LAYERS:
            for method in CAM_METHODS:
                maps = grad_cam(model, images_NCHW, predicted, method=method, layer=layer).numpy()
                scores = trust(model, images_NCHW, predicted, maps, keys=range(len(test)), masks_NHW=test.masks_NHW)
                values = asdict(scores)
                if layer == LAYERS[0] and method == CAM_METHODS[0] and run == runs[0]:
                    rows.writerow(["run", "layer", "method", *values])
                rows.writerow([Path(run).name, layer, method, *values.values()])
                sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
