"""Which layer and method of Grad-CAM are the most faithful: the scores of all on `shapes`, whose objects are known.

    python -m tests.bench.cams RUN [RUN ...] > scores.csv

In: trainings on `shapes`. Out: a row per run, layer and method, for the maps of the predicted class of 500 test images
(deletion and insertion: of the first 100).
"""

import csv
import sys
from dataclasses import asdict
from pathlib import Path

import torch

from scsuite.core.augment import normalise
from scsuite.core.cam import grad_cam, score_faithfulness
from scsuite.core.config import CAM_METHODS
from scsuite.core.dataset import load_dataset
from scsuite.core.runs import load_checkpoint

LAYERS = ("prep", "layer1", "layer2", "layer3", "layer2,layer3", "layer1,layer2,layer3")
NUM_IMAGES = 500


def main(runs: list[str]) -> None:
    test = load_dataset("shapes", limit_test=NUM_IMAGES).test
    rows = csv.writer(sys.stdout)
    for run in runs:
        model, metadata = load_checkpoint(run)
        images_NCHW = normalise(test.images_NHWC, metadata["mean"], metadata["std"])
        with torch.inference_mode():
            predicted = model(images_NCHW).argmax(dim=1).tolist()
        for layer in LAYERS:
            for method in CAM_METHODS:
                maps_NHW = grad_cam(model, images_NCHW, predicted, method=method, layer=layer).numpy()
                scores = score_faithfulness(
                    model, images_NCHW, predicted, maps_NHW, image_ids=range(len(test)), masks_NHW=test.masks_NHW
                )
                values = asdict(scores)
                if layer == LAYERS[0] and method == CAM_METHODS[0] and run == runs[0]:
                    rows.writerow(["run", "layer", "method", *values])
                rows.writerow([Path(run).name, layer, method, *values.values()])
                sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
