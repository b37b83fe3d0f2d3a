"""E: augmentation policies. A policy file may name only allowed transforms of one image, with plain arguments."""

import json
from collections.abc import Iterator
from typing import Any

import yaml

from tests.faults.builders import train_on
from tests.faults.case import FaultCase, ScoreRow, check_cases
from tests.faults.sandbox import Sandbox

FEW = ("--limit-train", 20, "--limit-test", 10)


def _policy(fault: str, name: str, text: str, words: tuple[str, ...] = (), code: int = 3) -> FaultCase:
    """A training with this policy file; CANARY in the text becomes a path that no code may create."""

    def make(sandbox: Sandbox) -> list[object]:
        path = sandbox.inputs / "policy.yaml"
        path.write_text(text.replace("CANARY", str(sandbox.canary)))
        return train_on("shapes", *FEW, "--augment", path)

    return FaultCase(fault, name, make, code, words)


def node(name: str, **arguments: Any) -> dict[str, Any]:
    """One transform as albumentations writes it."""
    return {"__class_fullname__": name, **arguments}


def _compose(fault: str, name: str, *nodes: Any, words: tuple[str, ...] = (), code: int = 3, **extra: Any) -> FaultCase:
    """A training with a policy of these transforms."""
    compose = {"__class_fullname__": "Compose", "transforms": list(nodes), **extra}
    return _policy(fault, name, yaml.safe_dump({"__version__": "2.0.8", "transform": compose}), words, code)


HEAD = "transform:\n  __class_fullname__: Compose\n"


def _yaml() -> Iterator[FaultCase]:
    calls = {
        "os.system": "!!python/object/apply:os.system ['touch CANARY']",
        "subprocess": "!!python/object/apply:subprocess.check_call [['touch', 'CANARY']]",
        "eval": "!!python/object/new:eval [\"open('CANARY', 'w')\"]",
        "a module": "!!python/module:antigravity",
        "a name": "!!python/name:os.system",
    }
    for name, text in calls.items():
        yield _policy("E41", name, f"{HEAD}  transforms: {text}\n", ("could not determine a constructor",))
        yield _policy("E41", f"{name} at the top", f"{text}\n", ("plain YAML",))
    alias_bomb = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n" + "".join(
        f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 10)
    )
    yield _policy("E42", "an alias bomb", alias_bomb, ("aliases are not allowed",))
    yield _policy("E42", "an alias to itself", "&a [*a]\n", ("aliases are not allowed",))
    yield FaultCase("E42", "a file of 100 MB", _large, 3, ("larger than 65536 bytes",))
    yield FaultCase(
        "E42", "an endless file", lambda _: train_on("shapes", *FEW, "--augment", "/dev/zero"), 3, ("65536",)
    )
    yield _policy("E42", "lists 5,000 deep", "[" * 5000 + "]" * 5000, ("plain YAML",))
    yield _policy("E42", "keys 5,000 deep", "".join(f"{' ' * (i % 12)}? " for i in range(5000)), ())
    deep = node("NoOp")
    for _ in range(9):
        deep = node("Sequential", transforms=[deep])
    yield _compose("E42", "nested 9 deep", deep, words=("8 deep",))
    yield _compose("E42", "65 transforms", *(node("NoOp", p=i / 65) for i in range(65)), words=("at most 64",))


def _large(sandbox: Sandbox) -> list[object]:
    path = sandbox.inputs / "policy.yaml"
    path.write_bytes(b"a: b\n" * 2 * 10**7)
    return train_on("shapes", *FEW, "--augment", path)


FIRST = "transform.transforms[0]"


def _arguments() -> Iterator[FaultCase]:
    bad_nodes: dict[str, tuple[dict[str, Any], str]] = {
        "an unknown class": (node("HorizontalFlop"), FIRST),
        "a misspelt argument": (node("HorizontalFlip", prob=1), f"{FIRST}.prob"),
        "p = 3": (node("HorizontalFlip", p=3), FIRST),
        "p not a number": (node("HorizontalFlip", p=float("nan")), FIRST),
        "p infinite": (node("HorizontalFlip", p=float("inf")), FIRST),
        "p = -1": (node("OneOf", p=-1, transforms=[node("NoOp")]), f"{FIRST}.p"),
        "a word for a number": (node("Blur", blur_limit="1e-3"), FIRST),
        "a mapping for a number": (node("Blur", blur_limit={"a": 1}), FIRST),
        "no class": ({"p": 1}, FIRST),
        "a class that is a list": ({"__class_fullname__": ["NoOp"]}, FIRST),
    }
    forbidden = [
        node("Lambda", image="CANARY"),
        node("TextImage", font_path="/etc/passwd"),
        node("FDA", reference_images=["/etc/passwd"], read_fn="eval"),
        node("HistogramMatching", reference_images=["/etc/passwd"]),
        node("PixelDistributionAdaptation", reference_images=["/etc/passwd"]),
        node("TemplateTransform", templates="/etc/passwd"),
        *map(
            node,
            ("os.system", "Mosaic", "OverlayElements", "ToTensorV2", "Compose", "ReplayCompose", "BboxSafeRandomCrop"),
        ),
    ]
    for name, (bad_node, where) in bad_nodes.items():
        yield _compose("E43", name, bad_node, words=(where,))
    for forbidden_node in forbidden:
        yield _compose("E44", forbidden_node["__class_fullname__"], forbidden_node, words=(FIRST,))
    yield _policy(
        "E43", "a key given twice", f"{HEAD}  transforms: []\n  transforms: []\n", ("given twice: transforms",)
    )
    yield _policy("E43", "JSON cut off", json.dumps({"transform": node("Compose")})[:-3], ("plain YAML",))
    yield _policy("E43", "an empty file", "", ("a mapping (option: value)",))
    yield _policy("E43", "bytes that are not text", "\x00\x01", ("plain YAML",))
    yield FaultCase(
        "E43",
        "a missing file",
        lambda sandbox: train_on("shapes", *FEW, "--augment", sandbox.inputs / "none"),
        3,
        ("No such file",),
    )
    yield FaultCase(
        "E43", "a folder", lambda sandbox: train_on("shapes", *FEW, "--augment", sandbox.inputs), 3, ("directory",)
    )


def _outcomes() -> Iterator[FaultCase]:
    size = ("32x32x3",)
    yield _compose("E45", "images of 16 x 16", node("Resize", height=16, width=16), words=size)
    yield _compose("E45", "a crop larger than the image", node("CenterCrop", height=40, width=40), words=size)
    yield _compose("E45", "gray images", node("ToGray", num_output_channels=1, p=1), words=size)
    zero = node("Normalize", mean=[0, 0, 0], std=[0, 0, 0])
    yield _compose("E45", "NaN in the output", zero, words=("finite",))
    yield _compose("E45", "boxes", node("NoOp"), words=("images only",), bbox_params={"format": "coco"})
    large_numbers: dict[str, dict[str, Any]] = {
        "height": node("Resize", height=10_000, width=10_000),
        "min_height": node("PadIfNeeded", min_height=50_000, min_width=9),
        "blur_limit": node("MotionBlur", blur_limit=[100_001, 100_001]),
        "iterations": node("GlassBlur", iterations=10**6),
        "n_segments": node("Superpixels", n_segments=[10**6, 10**6]),
        "scale_limit": node("RandomScale", scale_limit=1000.0),
        "percent": node("CropAndPad", percent=1000.0),
        "max_factor": node("ZoomBlur", max_factor=1e9),
        "step_factor": node("ZoomBlur", max_factor=2.0, step_factor=[1e-9, 1e-9]),
        "grid": node("RandomGridShuffle", grid=[9999, 9999]),
        "fit_output": node("Affine", shear=89.999, fit_output=True),
        "num_holes_range": node("CoarseDropout", num_holes_range=[10**7, 10**7]),
        "padding": node("Pad", padding=-(10**9)),
        "alpha": node("ElasticTransform", alpha=float("inf")),
    }
    for name, large_node in large_numbers.items():
        yield _compose(
            "E45",
            f"{name} of {large_node['__class_fullname__']} too large",
            {**large_node, "p": 1.0},
            words=(f"{FIRST}.{name}",),
        )
    growing = [node("RandomScale", scale_limit=[3.0, 3.0], p=1.0) for _ in range(9)]
    yield _compose("E45", "nine transforms that increase the size", *growing, words=("at most 2 of",))
    nested = node("OneOf", transforms=[node("Sequential", transforms=growing, p=1.0)], p=0.0)
    yield _compose("E45", "nine of them in a group", nested, words=("at most 2 of",))
    yield _compose(
        "E45",
        "an allowed policy",
        node("PadIfNeeded", min_height=40, min_width=40),
        node("RandomCrop", height=32, width=32),
        words=("final",),
        code=0,
    )
    flip = {"__class_fullname__": "Compose", "transforms": [node("HorizontalFlip")]}
    for version in ("1.4.24", "3.0", "\x1b[2J"):
        text = yaml.safe_dump({"__version__": version, "transform": flip})
        yield _policy("E46", f"albumentations {version!r}", text, ("warning: ", "2.0.8 is installed"), 0)
    yield _policy(
        "E46",
        "a later version's class",
        yaml.safe_dump({"__version__": "9.9", "transform": {**flip, "transforms": [node("NewOne")]}}),
        (FIRST,),
    )


def rows(quick: bool) -> list[ScoreRow]:
    """One row: the cases of E."""
    cases = [*_yaml(), *_arguments(), *_outcomes()]
    return [check_cases("E augmentation policies", cases[::4] if quick else cases)]
