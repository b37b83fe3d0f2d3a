"""The compiled form of the network: when it runs, and what its trial finds. Run: pytest tests/core/test_compiled.py.

On a CPU, with the quick backends of torch.compile; CUDA's own, inductor, takes a minute here.
"""

import logging
import random
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from scsuite.core import compiled
from scsuite.core.checkpoint import read_checkpoint, save_checkpoint
from scsuite.core.compiled import STEPS_MIN, Forward, choose_forward, tried, why_plain
from scsuite.core.config import TrainConfig
from scsuite.core.dataset import Dataset
from scsuite.core.loop import StepResult, Trainer, fit

CUDA = torch.device("cuda")
Backend = str | Callable[..., Any]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Threads that wait for each other cost a tiny network more than they give it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def config(tiny_config: TrainConfig) -> TrainConfig:
    """72 images in batches of 16: 5 steps an epoch, the last on 8 images."""
    return replace(tiny_config, dropout=0.0)


def try_on(trainer: Trainer, backend: Backend, sizes: Sequence[int] = (16, 8)) -> Forward:
    """The trial of a trainer's network, and its result in the trainer."""
    arithmetic = trainer.arithmetic
    trainer.forward = tried(
        trainer.model, sizes, device=arithmetic.device, dtype=arithmetic.dtype, autocast=arithmetic.autocast,
        backend=backend,
    )  # fmt: skip
    return trainer.forward


def losses_of(trainer: Trainer) -> list[float]:
    steps: list[StepResult] = []
    list(fit(trainer, on_step=steps.append))
    return [step.loss for step in steps]


def eagerly(change: Callable[[list[Tensor]], list[Tensor]]) -> Callable[..., Any]:
    """A backend that runs the graph as it is, and then changes what it gives."""

    def backend(graph: torch.fx.GraphModule, _examples: list[Tensor]) -> Callable[..., Any]:
        return lambda *inputs: tuple(change(list(graph(*inputs))))

    return backend


def broken(*_: object) -> Callable[..., Any]:
    raise RuntimeError("Cannot find a working triton installation\nand much more to read")


def out_of_memory(_: list[Tensor]) -> list[Tensor]:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")


# --- a form that agrees ---


def test_a_compiled_training_is_the_plain_one(tiny_data: Dataset, config: TrainConfig, tmp_path: Path) -> None:
    config = replace(config, batch_size=24)  # one size: "aot_eager" takes seconds for each
    plain, other = (Trainer(tiny_data, config) for _ in range(2))
    assert try_on(other, "aot_eager", [24]).name == "compiled"
    assert losses_of(other) == pytest.approx(losses_of(plain), rel=1e-4)
    assert list(other.tensors()) == list(plain.tensors())
    for name, tensor in plain.tensors().items():
        assert torch.allclose(other.tensors()[name], tensor, atol=1e-4), name
    save_checkpoint(tmp_path / "state.safetensors", other.tensors(), other.facts())
    again = Trainer(tiny_data, config)
    again.restore(read_checkpoint(tmp_path / "state.safetensors"))
    assert torch.equal(again.model.fc.weight, other.model.fc.weight)


def test_each_size_is_compiled_once_and_every_step_of_every_epoch_runs_so(
    tiny_data: Dataset, config: TrainConfig
) -> None:
    compilations, runs = [], []

    def counting(graph: torch.fx.GraphModule, _examples: list[Tensor]) -> Callable[..., Any]:
        compilations.append(graph)
        return lambda *inputs: (runs.append(graph), graph(*inputs))[1]  # type: ignore[func-returns-value]

    trainer = Trainer(tiny_data, replace(config, precision="bf16", epochs=2))
    assert try_on(trainer, counting).name == "compiled"
    assert (len(compilations), len(runs)) == (2, 2)
    losses_of(trainer)  # with an evaluation between its two epochs
    assert len(compilations) == 2
    assert [runs.count(graph) for graph in compilations] == [1 + 2 * 4, 1 + 2]


def test_a_size_that_was_not_tried_goes_through_the_plain_network(tiny_data: Dataset, config: TrainConfig) -> None:
    compilations = []

    def counting(graph: torch.fx.GraphModule, _examples: list[Tensor]) -> Callable[..., Any]:
        compilations.append(graph)
        return graph.forward

    trainer = Trainer(tiny_data, config)
    forward = try_on(trainer, counting)
    trainer.model.train()
    for size in (5, 0):
        assert forward.call(torch.zeros(size, 3, 32, 32)).shape == (size, 3)
    assert len(compilations) == 2


# --- a form that does not ---


@pytest.mark.parametrize(
    ("backend", "words"),
    [
        (broken, "compiling failed: RuntimeError: Cannot find a working triton installation"),
        (eagerly(out_of_memory), "compiling failed: OutOfMemoryError: CUDA out of memory. Tried to allocate"),
        (eagerly(lambda out: [out[0] * 1.1, *out[1:]]), "logits of a batch of 16 differ by 0.1, tolerated are 0.0039"),
        (eagerly(lambda out: [out[0] * torch.nan, *out[1:]]), "logits of a batch of 16 differ by nan"),
        (eagerly(lambda out: [2 * out[0] - out[0].detach(), *out[1:]]), "gradients of a batch of 16 differ by 1,"),
        ("no such backend", "compiling failed: InvalidBackend"),
    ],
)  # fmt: skip
def test_a_form_that_fails_or_is_wrong_gives_the_plain_network_and_says_why(
    tiny_data: Dataset, config: TrainConfig, backend: Backend, words: str, capfd: pytest.CaptureFixture[str]
) -> None:
    trainer, reference = (Trainer(tiny_data, replace(config, epochs=1)) for _ in range(2))
    forward = try_on(trainer, backend)
    assert forward.name == "plain"
    assert words in forward.reason
    assert "\n" not in forward.reason
    assert len(forward.reason) < 160
    assert capfd.readouterr() == ("", "")
    assert losses_of(trainer) == losses_of(reference)


@pytest.mark.parametrize("floats", [True, False], ids=["means and variances", "counts of batches"])
def test_statistics_that_are_not_kept_are_found(tiny_data: Dataset, config: TrainConfig, floats: bool) -> None:
    def forgetful(graph: torch.fx.GraphModule, _examples: list[Tensor]) -> Callable[..., Any]:
        def run(*inputs: Tensor) -> Any:  # on copies of the network's buffers
            return graph(*(
                tensor.clone() if tensor.is_floating_point() is floats and not tensor.requires_grad else tensor
                for tensor in inputs
            ))  # fmt: skip

        return run

    forward = try_on(Trainer(tiny_data, config), forgetful)
    assert forward.name == "plain"
    assert "statistics of a batch of 16 differ by 1, tolerated are 0.0039" in forward.reason


# --- what a trial leaves behind ---


@pytest.mark.parametrize("backend", [eagerly(lambda out: out), broken, eagerly(out_of_memory)])
def test_a_trial_leaves_everything_as_it_was(tiny_data: Dataset, config: TrainConfig, backend: Backend) -> None:
    def state() -> list[Any]:
        return [
            *(tensor.tolist() for tensor in trainer.model.state_dict().values()),
            [p.grad for p in trainer.model.parameters()], [module.training for module in trainer.model.modules()],
            [p.stride() for p in trainer.model.parameters()],
            torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist(),  # type: ignore[index]
            logging.root.manager.disable, warnings.filters[:],
            torch.is_grad_enabled(), torch.is_autocast_enabled("cpu"),
        ]  # fmt: skip

    trainer = Trainer(tiny_data, replace(config, precision="bf16"))
    trainer.model.eval()
    before = state()
    try_on(trainer, backend)
    assert state() == before


# --- when it is not tried ---


@pytest.mark.parametrize(
    ("changes", "num_steps", "device", "words"),
    [
        ({}, STEPS_MIN, torch.device("cpu"), "on CUDA alone"),
        ({"deterministic": True}, STEPS_MIN, CUDA, "--deterministic"),
        ({"dropout": 0.1}, STEPS_MIN, CUDA, "--dropout"),
        ({}, STEPS_MIN - 1, CUDA, "from 1,000 steps on, and this run has 999"),
    ],
)
def test_the_plain_network_runs_where_compiling_cannot_help(
    config: TrainConfig, changes: dict[str, Any], num_steps: int, device: torch.device, words: str
) -> None:
    reason = why_plain(replace(config, **changes), num_steps, device)
    assert reason is not None
    assert words in reason


def test_a_long_run_on_cuda_is_tried_with_its_two_batch_sizes(
    tiny_data: Dataset, config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(compiled, "tried", lambda _model, sizes, **named: asked.append((sizes, named)))
    trainer = Trainer(tiny_data, config)
    arithmetic = trainer.arithmetic
    choose_forward(
        trainer.model, config, [16, 8], num_steps=STEPS_MIN, device=CUDA, dtype=arithmetic.dtype,
        autocast=arithmetic.autocast,
    )  # fmt: skip
    assert [sizes for sizes, _ in asked] == [[16, 8]]
    monkeypatch.setattr(
        "scsuite.core.loop.choose_forward", lambda model, _config, sizes, **_: Forward("fake", str(sizes), model)
    )
    assert trainer.forward.reason == "[16, 8]"


def test_on_a_cpu_the_network_itself_runs(tiny_data: Dataset, config: TrainConfig) -> None:
    trainer = Trainer(tiny_data, config)
    assert trainer.forward.call is trainer.model
    assert trainer.forward.facts() == {"name": "plain", "reason": "compiled on CUDA alone"}
