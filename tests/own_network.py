"""Range test, One Cycle training, evaluation and Grad-CAM of torchvision's resnet18 on `shapes`, with the public API.

Run: python -m tests.own_network. It takes about 10 minutes on two cores; the test suite runs it at a tiny size.
"""

from typing import Any

import torch
from torch import nn
from torchvision.models import resnet18

import scsuite


def small_image_resnet18(num_classes: int) -> nn.Module:
    """resnet18 with a stem for 32 x 32: the original one leaves 1 x 1 pixel in the last block."""
    model: nn.Module = resnet18(num_classes=num_classes)
    model.conv1 = nn.Conv2d(3, 64, kernel_size=3, padding=1, bias=False)
    model.maxpool = nn.Identity()
    return model


def run(
    num_train: int = 2000, num_test: int = 500, batch_size: int = 100, steps: int = 100, lr_end: float = 10.0,
    epochs: int = 4,
) -> Any:  # fmt: skip
    """Return the range test, the trainer, the evaluation of the loaded network, and its heatmaps."""
    data = scsuite.load_dataset("shapes", limit_train=num_train, limit_test=num_test)
    model = small_image_resnet18(len(data.class_names))
    range_config = scsuite.LrRangeConfig(batch_size=batch_size, steps=steps, lr_end=lr_end)
    test = scsuite.range_test(data, range_config, model=model)
    config = scsuite.TrainConfig(batch_size=batch_size, epochs=epochs, lr_min=test.lr_min, lr_max=test.lr_max)
    trainer = scsuite.Trainer(data, config, model=model)
    trainer.fit("runs")
    trainer.save("resnet18.safetensors", weights_only=True)

    own, metadata = scsuite.load_checkpoint("resnet18.safetensors", model=small_image_resnet18(len(data.class_names)))
    mean, std, names = metadata["mean"], metadata["std"], tuple(metadata["class_names"])
    evaluation = scsuite.evaluate(own, data.test, mean=mean, std=std, class_names=names)
    pixels = torch.from_numpy(data.test.images_NHWC[:4]) / 255
    inputs = ((pixels - torch.tensor(mean)) / torch.tensor(std)).permute(0, 3, 1, 2)
    heatmaps = scsuite.grad_cam(own, inputs, evaluation.predicted_N[:4].tolist())
    return test, trainer, evaluation, heatmaps


if __name__ == "__main__":
    test, trainer, evaluation, heatmaps = run()
    print(test.reason)
    print(f"test accuracy {evaluation.accuracy:.1%}, heatmaps {tuple(heatmaps.shape)}")
