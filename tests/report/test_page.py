"""The page of a training, and of several: what it says, and that nothing in it is markup or an address of a user's."""

import base64
import io
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from scsuite.core.errors import InputError
from scsuite.core.runs.comparison import compare
from scsuite.core.runs.find_trainings import common_group, find_trainings
from scsuite.core.runs.train_summary import read_training
from scsuite.report.page import comparison_page, training_page
from tests.conftest import REPOSITORY
from tests.made_runs import make_evaluation, make_gradcam, make_lr_range, make_training, write_run

REFERENCE = REPOSITORY / "runs" / "reference"
HOSTILE = ("<script>alert(1)</script>", '[red]a & "b"\'</td>', "{{ 7 * 7 }}{% x %}", "a\u202eb\x1b[31m\n", "caf\udce9")
MAX_BYTES = 3_000_000


class Reader(HTMLParser):
    """Collects the tags and the text of a page."""

    def __init__(self, page: bytes) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.texts: list[str] = []
        self.feed(page.decode("utf-8"))  # strict: a page is valid UTF-8
        self.text = re.sub(r"\s+", " ", " ".join(self.texts))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "source", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, "tags are nested"

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.texts.append(data)

    def attributes(self, tag: str) -> list[dict[str, str | None]]:
        return [values for name, values in self.tags if name == tag]


def page_of(run: Path) -> Reader:
    """The page as train writes it, which embeds the curves: drawing them takes most of the time."""
    return Reader(training_page(read_training(run), redraw=False))


@pytest.fixture(scope="module")
def demo() -> Reader:
    return Reader(training_page(read_training(REFERENCE / "demo-train")))


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Reader:
    folder = tmp_path_factory.mktemp("runs")
    path = make_training(folder / "a <b>", class_names=HOSTILE, data="<img src=x>")
    make_evaluation(folder / "e", "a <b>", class_names=HOSTILE)
    image = {"file": "test/<script>/x.png", "actual": HOSTILE[0], "predicted": HOSTILE[3]}
    make_gradcam(folder / "g", "a <b>", image)
    return page_of(path)


def addresses(page: Reader) -> list[str]:
    """Everything that a browser would load or follow."""
    names = ("src", "srcset", "href", "action", "data", "poster", "background", "xlink:href")
    return [str(values[name]) for _, values in page.tags for name in names if name in values]


# --- what it says ---


def test_the_answer_comes_first(demo: Reader) -> None:
    assert demo.text.index("94.70 % test accuracy") < 200
    assert "95 % interval for the images: 93.13 to 95.93 %" in demo.text  # as evaluate recorded it


@pytest.mark.parametrize(
    "text",
    [
        "10,000", "1,000", "103,944",  # images, parameters
        "reference LR for this width, batch size and number of steps",  # why these LR bounds
        "2,041", "end of epoch 2.71 of 13",  # the cycle
        "hourglass triangle 10 10.0 %",  # most confused
        "heart 82.00 % 73.33 to 88.30 % 100.00 % 90.11 % 100",  # a class
        "albumentations 2.0.8", "Intel(R) Xeon(R) Processor",
        "scsuite train --data shapes --limit-test 1000 --width 0.125 --bs 64 --epochs 13",
    ],
)  # fmt: skip
def test_the_page_has_every_part(text: str, demo: Reader) -> None:
    assert text in demo.text


def test_figures_and_maps_are_inside_the_page(demo: Reader) -> None:
    images = demo.attributes("img")
    assert len(images) == 4  # augmented, range test, curves, maps
    assert all(len(str(image["alt"])) > 20 for image in images)
    gradcam = (REFERENCE / "demo-gradcam" / "figures" / "gradcam.png").read_bytes()
    assert f"data:image/png;base64,{base64.b64encode(gradcam).decode()}" in addresses(demo)
    assert len([values for values in demo.attributes("source") if values["media"]]) == 1  # the curves on a telephone


def test_tables_name_their_columns_and_rows(demo: Reader) -> None:
    heads = demo.attributes("th")
    assert len(heads) > 100
    assert {values.get("scope") for values in heads} <= {"col", "row"}


def test_missing_parts_are_named_with_their_command(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    page = page_of(make_training(tmp_path / "runs" / "a"))
    for command in ("scsuite evaluate --ckpt runs/a", "scsuite gradcam --ckpt runs/a", "scsuite lr-range"):
        assert command in page.text


def test_an_unfinished_training_is_called_so(tmp_path: Path) -> None:
    page = page_of(make_training(tmp_path / "a", [0.5], complete=False, epochs=7))
    assert "Stopped after 1 of 7 epochs: 50.00 % test accuracy so far" in page.text
    assert f"scsuite train --resume {tmp_path.name}/a" in page.text
    shutil.rmtree(tmp_path / "a")
    path = make_training(tmp_path / "a", [0.5], complete=False)
    for name in ("metrics.csv", "steps.csv", "environment.json"):
        (path / name).unlink()
    assert "no accuracy yet" in page_of(path).text


@pytest.mark.parametrize(
    ("target", "text"), [(80, "reached , 10.00 points above it"), (95, "missed , 5.00 points below it")]
)
def test_the_target_is_judged(target: float, text: str, tmp_path: Path) -> None:
    path = make_training(tmp_path / "a", [0.5, 0.9])
    (path / "config.yaml").open("a").write(f"target: {target}\n")
    assert text in page_of(path).text


def test_settings_that_are_not_at_their_default_come_first(demo: Reader) -> None:
    texts = ("--width 0.125 1 ", "At the default of the recipe", "--optimizer sgd")
    assert sorted(texts, key=demo.text.index) == list(texts)


# --- several trainings ---


def test_several_trainings_are_compared(tmp_path: Path) -> None:
    accuracies = ([0.90, 0.92], [0.93, 0.97])
    paths = [
        make_training(tmp_path / f"{group}-{seed}", [value], seed=seed, label_smoothing=group / 10)
        for group, values in enumerate(accuracies)
        for seed, value in enumerate(values)
    ]
    paths.append(make_training(tmp_path / "stopped", [0.4], seed=5, label_smoothing=0, complete=False))
    trainings = [read_training(path) for path in paths]
    text = Reader(comparison_page(trainings, compare(trainings))).text
    assert "A: 91.00 ± 1.41 %" in text
    assert "B: 95.00 ± 2.83 %" in text
    assert "B minus A: +4.00 points" in text  # 3 and 5; SD 1.414, so the interval is 4 -+ 12.706
    assert "95 % interval -8.71 to +16.71, over 2 common seeds: no difference is shown" in text
    assert "--label-smoothing 0 0.1" in text  # the settings that differ, by group
    assert "1 of 5 trainings is not complete" in text
    assert "40.00 % so far" in text


def test_seeds_of_the_same_settings_have_one_mean(tmp_path: Path) -> None:
    trainings = [read_training(make_training(tmp_path / f"{seed}", [0.9], seed=seed)) for seed in range(3)]
    text = Reader(comparison_page(trainings, compare(trainings))).text
    assert "90.00 ± 0.00 % test accuracy" in text
    assert "Only the seed differs" in text


def test_a_diverged_training_is_not_to_be_continued(tmp_path: Path) -> None:
    path = make_training(tmp_path / "a", [0.5], complete=False)
    (path / "result.json").write_text('{"command": "train", "status": "failed", "exit_code": 5}')
    text = page_of(path).text
    assert "It would diverge again." in text
    assert "--resume" not in text


def test_a_group_of_seeds_that_has_not_ended_says_how_to_continue(tmp_path: Path) -> None:
    group = tmp_path / "g"
    config = {"seeds": 3, "target": 95.0, "peak_epoch": None, "batch_size": 512}
    write_run(group, config, {}, {})
    for seed, complete in ((0, True), (1, False)):
        make_training(group / f"a-seed{seed}", [0.9], seed=seed, complete=complete)
    trainings = find_trainings([group])
    text = Reader(comparison_page(trainings, compare(trainings), common_group(trainings))).text
    assert "Target 95.00 %: not judged yet" in text
    assert "1 of 3 trainings are complete" in text
    assert f"scsuite train --resume {tmp_path.name}/g ." in text
    assert "--seeds 3 --target 95.0" in text
    unfinished = Reader(training_page(trainings[1])).text
    assert "One of the 3 seeds of g." in unfinished
    assert f"scsuite train --resume {tmp_path.name}/g ." in unfinished


# --- users' names, other places ---


def test_names_are_never_markup(hostile: Reader) -> None:
    assert hostile.attributes("script") == []
    assert not hostile.open  # every tag is closed
    for text in ("<script>alert(1)</script>", '[red]a & "b"\'</td>', "{{ 7 * 7 }}{% x %}", "<img src=x>", "a <b>"):
        assert text in hostile.text
    assert r"a\u202eb\x1b[31m\n" in hostile.text  # control characters are visible
    assert r"caf\udce9" in hostile.text  # and so are bytes that are not UTF-8


@pytest.mark.parametrize("page", ["demo", "hostile"])
def test_a_page_loads_nothing(page: str, request: pytest.FixtureRequest) -> None:
    reader: Reader = request.getfixturevalue(page)
    assert addresses(reader)
    assert all(address.startswith(("data:image/", "#")) for address in addresses(reader))
    assert not {tag for tag, _ in reader.tags} & {"script", "link", "iframe", "object", "embed", "base", "form"}
    assert not [name for _, values in reader.tags for name in values if name.startswith("on")]
    policy = next(values["content"] for values in reader.attributes("meta") if "http-equiv" in values)
    assert str(policy).startswith("default-src 'none';")


def test_the_style_of_the_page_loads_nothing() -> None:
    assert b"url(" not in (REPOSITORY / "scsuite/report/templates/page.css").read_bytes()


def test_a_page_of_many_classes_and_huge_figures_stays_small(tmp_path: Path) -> None:
    names = [f"a class with a long name, number {k}" for k in range(30)]
    path = make_training(tmp_path / "a", class_names=names)
    make_evaluation(tmp_path / "e", "a", class_names=names)
    make_lr_range(tmp_path / "l")
    run = make_gradcam(tmp_path / "g", "a")
    noise = Image.effect_noise((1600, 1400), 100).convert("RGB")
    content = io.BytesIO()
    noise.save(content, "PNG", compress_level=1)
    assert len(content.getvalue()) > MAX_BYTES
    (run / "figures" / "gradcam.png").write_bytes(content.getvalue())
    page = training_page(read_training(path), redraw=False)
    assert len(page) < MAX_BYTES
    assert b"data:image/jpeg" in page
    assert "Confusion matrix of 30 classes" in page.decode()


def test_a_damaged_figure_is_called_missing(tmp_path: Path) -> None:
    path = make_training(tmp_path / "a")
    run = make_gradcam(tmp_path / "g", "a")
    (run / "figures" / "gradcam.png").write_bytes(b"<svg onload=alert(1)>")
    assert "The figure of the maps is missing in g" in page_of(path).text


def test_an_edited_result_is_refused_in_one_line(tmp_path: Path) -> None:
    path = make_training(tmp_path / "a")
    result = path / "result.json"
    result.write_text(result.read_text().replace('"test_loss": 0.3', '"test_loss": "low"', 1))
    with pytest.raises(InputError, match="expected the values that scsuite writes"):
        page_of(path)
