"""A classifier gives the same answers as `evaluate`, for files and as an exported module."""

import warnings
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from scsuite import Trainer, evaluate, load_classifier
from scsuite.core.config import TrainConfig
from scsuite.core.dataset import Dataset
from scsuite.core.errors import InputError, UsageError
from scsuite.core.evaluation.predict import Classifier, InputReport, predict_files
from scsuite.core.model.network import build_model
from tests.core.tiny import MEAN, STD

NAMES = ("cat", "dog", "=1+1")


@pytest.fixture
def classifier() -> Classifier:
    return Classifier(build_model(3, 0.05, seed=0), MEAN, STD, NAMES).eval()


@pytest.fixture
def images_NCHW() -> Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (5, 3, 32, 32), dtype=np.uint8))


def save(path: Path, image_HWC: NDArray[np.uint8]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image_HWC).save(path)
    return path


def save_split(folder: Path, data: Dataset) -> list[Path]:
    return [save(folder / f"{i:02d}.png", image_HWC) for i, image_HWC in enumerate(data.test.images_NHWC)]


# --- the module ---


def test_the_module_normalises_and_gives_probabilities(classifier: Classifier, images_NCHW: Tensor) -> None:
    mean, std = (np.array(values).reshape(1, 3, 1, 1) for values in (MEAN, STD))
    normalised = torch.from_numpy(((images_NCHW.numpy() / 255 - mean) / std).astype(np.float32))
    logits = classifier.network(normalised).detach().numpy().astype(np.float64)
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert np.allclose(classifier(images_NCHW).detach().numpy(), expected, atol=1e-6)
    assert np.allclose(classifier(images_NCHW / 255).detach().numpy(), expected, atol=1e-6)


@pytest.mark.parametrize(
    "images",
    [torch.zeros(1, 3, 33, 32), torch.zeros(3, 32, 32), torch.zeros(1, 32, 32, 3), torch.zeros(1, 3, 32, 32).long()],
)
def test_images_of_another_shape_or_type_are_refused(classifier: Classifier, images: Tensor) -> None:
    with pytest.raises(UsageError, match="expected uint8 or float images of shape N x 3 x 32 x 32, found"):
        classifier(images)


@pytest.mark.parametrize("scale", [255.0, -1.0])
def test_floats_far_outside_0_to_1_are_refused(classifier: Classifier, scale: float) -> None:
    with pytest.raises(UsageError, match=r"expected floats in \[0, 1\], found values from"):
        classifier(scale * torch.linspace(0, 1, 3 * 32 * 32).view(1, 3, 32, 32))


@pytest.mark.parametrize("images", [np.zeros((1, 3, 32, 32), np.uint8), [[0.0]], None])
def test_what_is_no_tensor_is_refused(classifier: Classifier, images: Any) -> None:
    with pytest.raises(UsageError, match="expected a tensor, found"):
        classifier(images)


@pytest.mark.parametrize("paths", [None, 3, b"photo.png", [None], [3], np.zeros((1, 2)), torch.zeros(1, 3, 32, 32)])
def test_what_is_no_path_is_refused(classifier: Classifier, paths: Any) -> None:
    with pytest.raises(UsageError, match="expected str or Path, found"):
        classifier.predict(paths)


def test_torch_export_takes_the_module_with_any_batch_size(classifier: Classifier, images_NCHW: Tensor) -> None:
    dynamic_shapes = ({0: torch.export.Dim("batch")},)
    exported = torch.export.export(classifier, (images_NCHW,), dynamic_shapes=dynamic_shapes).module()
    for num_images in (1, 3, 5):
        images = images_NCHW[:num_images]
        assert torch.allclose(exported(images), classifier(images), atol=1e-6)


def test_onnx_gives_the_same_probabilities(classifier: Classifier, images_NCHW: Tensor, tmp_path: Path) -> None:
    for package in ("onnx", "onnxscript"):
        pytest.importorskip(package)
    onnxruntime = pytest.importorskip("onnxruntime")
    path, dynamic_shapes = tmp_path / "network.onnx", ({0: torch.export.Dim("batch")},)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(classifier, (images_NCHW,), path, dynamic_shapes=dynamic_shapes, verbose=False)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for num_images in (1, 5):
        images = images_NCHW[:num_images]
        (probabilities,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
        assert np.allclose(probabilities, classifier(images).detach().numpy(), atol=1e-5)


# --- files ---


@pytest.mark.parametrize("tta", ["none", "flip", "flip-shift"])
def test_predictions_are_those_of_evaluate(
    classifier: Classifier, tiny_data: Dataset, tmp_path: Path, tta: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(import_module("scsuite.core.evaluation.predict"), "PREDICT_BATCH_SIZE", 7)  # of 30 images
    paths = save_split(tmp_path, tiny_data)
    network = classifier.network
    evaluation = evaluate(network, tiny_data.test, mean=MEAN, std=STD, class_names=NAMES, tta=tta)
    predictions = classifier.predict(paths, topk=3, tta=tta)
    assert [row.file for row in predictions] == [str(path) for path in paths]
    assert [row.predicted for row in predictions] == [NAMES[label] for label in evaluation.predicted_N]
    for row, probabilities in zip(predictions, evaluation.probabilities_NK, strict=True):
        assert list(row.topk) == sorted(row.topk, key=lambda item: -item.probability)
        assert {item.name: item.probability for item in row.topk} == pytest.approx(
            dict(zip(NAMES, probabilities.tolist(), strict=True)), abs=1e-6
        )
        assert (row.predicted, row.probability) == (row.topk[0].name, row.topk[0].probability)


def test_equal_probabilities_keep_the_order_of_the_classes(tmp_path: Path) -> None:
    class Even(nn.Module):
        def forward(self, images_NCHW: Tensor) -> Tensor:
            return torch.zeros(len(images_NCHW), 3)

    path = save(tmp_path / "a.png", np.zeros((32, 32, 3), np.uint8))
    (prediction,) = Classifier(Even(), MEAN, STD, NAMES).predict(path, topk=2)
    assert [item.name for item in prediction.topk] == ["cat", "dog"]


def test_images_of_any_mode_and_size_are_predicted(classifier: Classifier, tmp_path: Path) -> None:
    modes = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16")
    for mode in modes:
        image = Image.new("L", (70, 9), 99)
        suffix = "jpg" if mode == "CMYK" else "png"
        (image.convert("I").convert(mode) if mode == "I;16" else image.convert(mode)).save(
            tmp_path / f"{mode}.{suffix}"
        )
    save(tmp_path / "1x1.png", np.zeros((1, 1, 3), np.uint8))
    assert len(classifier.predict(tmp_path)) == len(modes) + 1


def test_paths_are_predicted_in_their_order_each_time_they_are_given(classifier: Classifier, tmp_path: Path) -> None:
    black, white = (np.full((32, 32, 3), value, np.uint8) for value in (0, 255))
    folder = tmp_path / "photos"
    files = [save(folder / name, image) for name, image in {"a.png": black, "deep/b.png": white}.items()]
    (folder / "notes.txt").write_text("no image")
    with zipfile.ZipFile(tmp_path / "more.zip", "w") as archive:
        archive.write(files[1], "x/c.png")
    predictions = classifier.predict([files[1], folder, tmp_path / "more.zip", folder, files[1]])
    a, b = str(files[0]), str(files[1])
    assert [row.file for row in predictions] == [b, a, b, f"{tmp_path}/more.zip/x/c.png", a, b, b]
    assert len({row.probability for row in predictions if row.file != a}) == 1  # the same pixels, the same answer


def test_an_unreadable_file_is_an_error_unless_a_function_takes_it(classifier: Classifier, tmp_path: Path) -> None:
    for name in ("a.png", "c.png"):
        save(tmp_path / name, np.zeros((32, 32, 3), np.uint8))
    (tmp_path / "b.png").write_bytes(b"")
    with pytest.raises(InputError, match=r"b\.png: expected a complete image .*found an empty file"):
        classifier.predict(tmp_path)
    unreadable: list[tuple[str, str]] = []
    predictions = classifier.predict(tmp_path, on_unreadable=lambda file, reason: unreadable.append((file, reason)))
    assert [Path(row.file).name for row in predictions] == ["a.png", "c.png"]
    assert unreadable == [(str(tmp_path / "b.png"), "an empty file")]


def test_few_files_are_in_memory_at_a_time(
    classifier: Classifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = import_module("scsuite.core.evaluation.predict")
    num_read, data = 0, save(tmp_path / "a.png", np.zeros((32, 32, 3), np.uint8)).read_bytes()

    def read(path: object, report: object) -> Iterator[tuple[str, bytes]]:
        nonlocal num_read
        for number in range(2000):
            num_read += 1
            yield f"{number}.png", data

    monkeypatch.setattr(module, "iter_image_files", read)
    rows = predict_files(classifier, [tmp_path], InputReport())
    next(rows)
    assert num_read < 1000
    assert len(list(rows)) == 1999


def test_predict_leaves_the_training_mode_as_it_is(classifier: Classifier, tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", np.zeros((32, 32, 3), np.uint8))
    first = classifier.predict(path)
    before = {name: value.clone() for name, value in classifier.state_dict().items()}
    assert classifier.train().predict([str(path)]) == first  # batch norm with its running statistics
    assert classifier.training
    assert all(torch.equal(value, before[name]) for name, value in classifier.state_dict().items())


def test_logits_that_are_not_finite_are_an_error(classifier: Classifier, tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", np.zeros((32, 32, 3), np.uint8))
    with torch.no_grad():
        classifier.network.fc.weight.fill_(float("inf"))  # type: ignore[union-attr, operator]
    with pytest.raises(InputError, match="expected finite logits in fp32, found other values for 1 of 1 images"):
        classifier.predict(path)


@pytest.mark.parametrize("arguments", [{"topk": 4}, {"topk": 0}, {"topk": True}, {"tta": "rotate"}])
def test_invalid_arguments_are_refused(classifier: Classifier, tmp_path: Path, arguments: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"a whole number from 1 to 3, the number of classes|one of none, flip"):
        classifier.predict(save(tmp_path / "a.png", np.zeros((32, 32, 3), np.uint8)), **arguments)
    with pytest.raises(UsageError, match="at least one"):
        classifier.predict([])


# --- checkpoints ---


@pytest.mark.parametrize("width", [0.05, 0.1])
def test_a_checkpoint_brings_its_network_class_names_and_fit(
    tiny_data: Dataset, tiny_config: TrainConfig, tmp_path: Path, width: float
) -> None:
    config = replace(tiny_config, width=width, epochs=1, fit="stretch")
    trainer = Trainer(tiny_data, config)
    trainer.fit()
    trainer.save(tmp_path / "model.safetensors", weights_only=True)
    classifier = load_classifier(tmp_path / "model.safetensors")
    assert isinstance(classifier, nn.Module)
    assert (classifier.class_names, classifier.fit, classifier.training) == (tiny_data.class_names, "stretch", False)
    evaluation = trainer.evaluate()
    images_NCHW = torch.from_numpy(tiny_data.test.images_NHWC).permute(0, 3, 1, 2)
    assert np.allclose(classifier(images_NCHW).detach().numpy(), evaluation.probabilities_NK, atol=1e-5)
    # `stretch` sees the whole image: a red edge changes the prediction, which a centre square does not include.
    wide = np.zeros((32, 96, 3), np.uint8)
    plain, edged = save(tmp_path / "plain.png", wide), save(tmp_path / "edged.png", wide.copy())
    wide[:, :30, 0] = 255
    save(edged, wide)
    assert classifier.predict(plain)[0].probability != classifier.predict(edged)[0].probability
    classifier.fit = "crop"
    assert classifier.predict(plain)[0].probability == classifier.predict(edged)[0].probability
