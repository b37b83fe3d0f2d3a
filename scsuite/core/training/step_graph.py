"""The training step as a CUDA graph: recorded once for each batch size, then launched as a whole.

In: a `TrainSetup`, and what records a function; a batch and a learning rate for each step. Out: the `StepOutput` of
each step, as `launch_step` gives it. `--cuda-graph` chooses it. The weight average is not part of the graph: it is two
calls, and its weight changes from step to step.
"""

import warnings
from collections.abc import Callable
from typing import Protocol

import torch

from scsuite.core.config import TrainConfig
from scsuite.core.errors import one_line
from scsuite.core.model.network import ResNet3, temperature_of
from scsuite.core.training.loader import Batch
from scsuite.core.training.optimizer import start_momentum_at_zero
from scsuite.core.training.setup import TrainSetup
from scsuite.core.training.step import StepOutput, train_step

WARM_UP_STEPS = 3  # of each batch size, which are steps of the training: cuDNN then knows its algorithms
RING_SIZE = 8  # steps whose outputs are kept on the device

Replay = Callable[[], None]


class Recorder(Protocol):
    """What records a function: `CudaGraphs`, or a stand-in in the tests."""

    def warm_up(self, run: Callable[[], None]) -> None:
        """Run a function as it will be recorded later."""

    def capture(self, run: Callable[[], None]) -> Replay:
        """Record a function without running it. Raises RuntimeError if it cannot be recorded."""


class CudaGraphs:
    """Records functions as CUDA graphs that share their memory: no value in it is needed after a replay.

    Source: https://docs.pytorch.org/docs/stable/notes/cuda.html#whole-network-capture.
    """

    def __init__(self, device: torch.device) -> None:
        self.device, self.stream = device, torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self.pool = torch.cuda.graph_pool_handle()

    def warm_up(self, run: Callable[[], None]) -> None:
        """Run a function on the stream that records."""
        current = torch.cuda.current_stream(self.device)
        self.stream.wait_stream(current)
        with torch.cuda.stream(self.stream):
            run()
        current.wait_stream(self.stream)

    def capture(self, run: Callable[[], None]) -> Replay:
        """Record a function without running it."""
        graph = torch.cuda.CUDAGraph()
        # Another thread may pin memory meanwhile.
        with torch.cuda.graph(graph, pool=self.pool, stream=self.stream, capture_error_mode="thread_local"):
            run()

        def replay() -> None:
            with torch.cuda.device(self.device):
                graph.replay()

        return replay


class GraphedStep:
    """Owns all memory that a recorded step reads and writes besides the network's and the optimizer's.

    The host changes this memory and launches; a recorded step has no number of the host in it. The momentum buffers
    exist from the start, and a resume copies into them. R rows of outputs; row `slot` is the next step's.
    """

    def __init__(self, setup: TrainSetup, recorder: Recorder, warm_up_steps: int = WARM_UP_STEPS) -> None:
        self.setup, self.recorder, self.warm_up_steps = setup, recorder, warm_up_steps
        self.on_failure: Callable[[str], None] = warnings.warn
        device, num_rows = setup.device.device, max(RING_SIZE, setup.device.max_steps_in_flight)
        self.lr, self.found_inf = torch.zeros((), device=device), torch.zeros((), device=device)
        self.outputs_R3 = torch.zeros(num_rows, 3, dtype=torch.float64, device=device)
        self.rows_R1 = torch.arange(num_rows, device=device)[:, None]
        self.slot = torch.zeros((), dtype=torch.int64, device=device)
        self.num_launched, self.has_failed = 0, False
        self._batches: dict[int, Batch] = {}
        self._num_warm_ups: dict[int, int] = {}
        self._replays: dict[int, Replay] = {}
        start_momentum_at_zero(setup.optimizer)

    def launch(self, batch: Batch, lr: float) -> StepOutput:
        """Do a step of the training without waiting for the device. The output holds until R steps later."""
        size = len(batch.labels_N)
        if size not in self._batches:
            images_NCHW = torch.empty_like(self.setup.device.move(batch.images_NCHW))
            self._batches[size] = Batch(images_NCHW, torch.empty_like(batch.labels_N, device=images_NCHW.device))
        for own, given in zip(self._batches[size], batch, strict=True):
            own.copy_(given, non_blocking=True)
        self.set_lr(lr)
        if size not in self._replays and self._num_warm_ups.get(size, 0) >= self.warm_up_steps:
            self._capture(size)
        if size in self._replays:
            self._replays[size]()
        else:
            self.recorder.warm_up(lambda: self._step(self._batches[size]))
            self._num_warm_ups[size] = self._num_warm_ups.get(size, 0) + 1
        output_3 = self.outputs_R3[self.num_launched % len(self.outputs_R3)]
        self.num_launched += 1
        return StepOutput(*output_3)

    def set_lr(self, lr: float) -> None:
        """Set the learning rate of the next steps."""
        self.lr.fill_(lr)
        for group in self.setup.optimizer.param_groups:
            group["lr"] = self.lr

    def _capture(self, size: int) -> None:
        """Record the step for a batch size; if that fails, all later steps are launched call by call."""
        if self.has_failed:
            return
        try:
            self._replays[size] = self.recorder.capture(lambda: self._step(self._batches[size]))
        except RuntimeError as error:
            self.has_failed = True
            self.on_failure(f"--cuda-graph has no effect: the step could not be recorded: {one_line(error, 200)}")

    def _step(self, batch: Batch) -> None:
        setup, optimizer = self.setup, self.setup.optimizer
        optimizer.found_inf = self.found_inf  # type: ignore[attr-defined]
        output = train_step(
            setup.model, optimizer, setup.scaler, batch, device=setup.device,
            label_smoothing=setup.config.label_smoothing, l1=setup.config.l1, class_weights_K=setup.class_weights_K,
            temperature=temperature_of(setup.model), is_recorded=True,
        )  # fmt: skip
        self.found_inf.copy_(output.non_finite)
        optimizer.found_inf = self.found_inf  # type: ignore[attr-defined]
        row_3 = torch.stack([output.loss.double(), output.num_correct.double(), output.non_finite.double()])
        self.outputs_R3.copy_(torch.where(self.rows_R1 == self.slot, row_3, self.outputs_R3))
        self.slot.add_(1).remainder_(len(self.outputs_R3))


def make_graphed_step(config: TrainConfig, setup: TrainSetup) -> GraphedStep | None:
    """Return the step of `--cuda-graph`; None without it, and, with a warning, where a graph is not possible.

    Raises UsageError on another device than CUDA.
    """
    setup.device.check_cuda_graph(config.cuda_graph)
    if not config.cuda_graph:
        return None
    if reason := eager_reason(setup):
        warnings.warn(f"--cuda-graph has no effect: {reason}", stacklevel=4)
        return None
    return GraphedStep(setup, CudaGraphs(setup.device.device))


def eager_reason(setup: TrainSetup) -> str | None:
    """Return why the step of this training cannot be recorded: something in it changes that only the host knows."""
    config = setup.config
    reasons = {
        "your own network may use the host in its forward pass": type(setup.model) is not ResNet3,
        "the gradient scaler of fp16 waits for the device": setup.scaler.is_enabled(),
        "several ranks exchange values in a step": setup.world.size > 1,
        "--optimizer adamw counts its steps": config.optimizer != "sgd",
        "--cycle-momentum changes the momentum at each step": config.cycle_momentum,
        "--dropout draws a new mask at each step": config.dropout > 0,
    }
    return next((reason for reason, is_true in reasons.items() if is_true), None)
