"""H: faults of a training over two processes: ranks that die, hang, raise or differ, signals, another number of ranks.

The ranks are forked as in the other groups, and watched as torchrun's agent does: its store, its variables, SIGTERM to
the others when one fails, SIGKILL after a while. torchrun itself is in tests/core/test_distributed.py.
"""

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.faults import injection as inject
from tests.faults.case import ERROR_LINE, ScoreRow
from tests.faults.compare_runs import find_differences, find_partial_files
from tests.faults.runtime_faults import WIDE_ARGS
from tests.faults.sandbox import Outcome, Process, Sandbox, new_sandbox, run, start
from tests.tiny_args import RESUME_ARGS, RESUME_AUTO_LR_ARGS

WORLD_SIZE = 2
MAX_SECONDS = 60.0  # from a fault to the end of all ranks
TERMINATED = (-signal.SIGTERM, 128 + signal.SIGTERM)
GRACE_SECONDS = 10.0  # between SIGTERM and SIGKILL; torchrun waits 30
RankFaults = dict[int, inject.Action]  # what is injected into which rank
Check = Callable[[Sandbox, Path], list[str]]


@contextlib.contextmanager
def torchrun_environment(*, port: int | None = None) -> Iterator[dict[str, str]]:
    """The variables that torchrun gives its processes, and the store that it keeps for them."""
    from datetime import timedelta

    from torch._C._distributed_c10d import TCPStore

    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=60))
    yield {
        "WORLD_SIZE": str(WORLD_SIZE),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port or store.port),
        "TORCHELASTIC_RUN_ID": "faults",
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "TORCHELASTIC_RESTART_COUNT": "0",
    }


def start_ranks(
    sandbox: Sandbox, variables: dict[str, str], arguments: tuple[object, ...], faults: RankFaults
) -> list[Process]:
    """Start all ranks of a command; `{rank}` in an argument becomes the rank's number."""

    def start_rank(rank: int) -> Process:
        def before() -> None:
            os.environ.update(variables, RANK=str(rank), LOCAL_RANK=str(rank))
            faults.get(rank, lambda: None)()

        return start(sandbox, [str(word).replace("{rank}", str(rank)) for word in arguments], before)

    return [start_rank(rank) for rank in range(WORLD_SIZE)]


def _poll(process: Process) -> bool | None:
    """None while it runs, otherwise whether it succeeded; it is not reaped."""
    info = os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    return None if info is None else info.si_code == os.CLD_EXITED and info.si_status == 0


def _send(process: Process, signum: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signum)


def wait_for_ranks(ranks: list[Process]) -> list[Outcome]:
    """Wait for all ranks as torchrun does."""
    failed_at: float | None = None
    while None in (states := [_poll(process) for process in ranks]):
        running = [process for process, state in zip(ranks, states, strict=True) if state is None]
        if failed_at is None and False in states:
            failed_at = time.monotonic()
            for process in running:
                _send(process, signal.SIGTERM)
        is_overdue = failed_at is not None and time.monotonic() - failed_at > GRACE_SECONDS
        if is_overdue or time.monotonic() - ranks[0].start_time > 2 * MAX_SECONDS:
            for process in running:
                _send(process, signal.SIGKILL)
        time.sleep(0.005)
    return [process.wait() for process in ranks]


def run_ranks(
    sandbox: Sandbox, *arguments: object, faults: RankFaults | None = None, port: int | None = None
) -> list[Outcome]:
    """Start all ranks of a command and wait for their end."""
    with torchrun_environment(port=port) as variables:
        return wait_for_ranks(start_ranks(sandbox, variables, arguments, faults or {}))


def check_outcomes(outcomes: list[Outcome], exit_codes: tuple[int, ...], *words: str) -> list[str]:
    """Check the exit codes by rank, that one error line comes from all ranks together, and words of the output.

    A rank that gets torchrun's SIGTERM while it exits may have that code instead.
    """
    output, errors = "".join(o.out + o.err for o in outcomes), "".join(o.err for o in outcomes)
    problems = []
    codes = tuple(outcome.code for outcome in outcomes)
    if any(code not in (expected, *TERMINATED) for code, expected in zip(codes, exit_codes, strict=True)) or (
        set(codes) <= set(TERMINATED) and exit_codes != codes
    ):
        problems.append(f"exit {codes}, not {exit_codes}")
    if any(code in range(1, 7) for code in exit_codes) and not ERROR_LINE.fullmatch(errors):
        problems.append("stderr of all ranks is not one error line")
    if outcomes[1].out:
        problems.append("rank 1 printed")
    if "Traceback" in output:
        problems.append("a traceback")
    if (slowest := max(outcome.seconds for outcome in outcomes)) > MAX_SECONDS:
        problems.append(f"took {slowest:.0f} s")
    problems += [f"{word!r} is missing" for word in words if word not in output]
    return [*problems, f"output: {output[-600:]!r}"] if problems else []


def resume(sandbox: Sandbox, reference: Path, *words: str) -> list[str]:
    """Resume the sandbox's only run on two ranks and compare its end with the reference."""
    if len(sandbox.run_dirs) != 1:
        return [f"{len(sandbox.run_dirs)} run directories"]
    outcomes = run_ranks(sandbox, "train", "--resume", sandbox.run_dirs[0])
    return check_outcomes(outcomes, (0, 0), *words) + find_differences(sandbox.run_dirs[0], reference)


def at_train_step(call: int, action: inject.Action) -> inject.Action:
    """Act as a rank starts a step."""

    def before() -> None:
        from scsuite.core.training import step

        inject.before_call(step, "train_step", action, call)

    return before


# --- 75 and 76: a rank that dies or hangs ---


def killed_rank(rank: int, before: inject.Action) -> Check:
    """The other rank reports it; the run resumes from its last checkpoint to the same end."""

    def check(sandbox: Sandbox, reference: Path) -> list[str]:
        outcomes = run_ranks(sandbox, *RESUME_ARGS, faults={rank: before})
        codes = (4, -signal.SIGKILL) if rank else (-signal.SIGKILL, 4)
        return check_outcomes(outcomes, codes, "another rank is gone") + resume(sandbox, reference)

    return check


def killed_and_restarted(sandbox: Sandbox, reference: Path) -> list[str]:
    """With `--max-restarts 1` torchrun repeats the same command, which resumes the run that it started."""
    with torchrun_environment() as variables:  # one store for both
        faults = {1: at_train_step(17, inject.kill)}
        outcomes = wait_for_ranks(start_ranks(sandbox, variables, RESUME_ARGS, faults))
        variables |= {"TORCHELASTIC_RESTART_COUNT": "1"}
        restarted = wait_for_ranks(start_ranks(sandbox, variables, RESUME_ARGS, {}))
    problems = check_outcomes(outcomes, (4, -signal.SIGKILL), "another rank is gone")
    problems += check_outcomes(restarted, (0, 0), "resumed")
    problems += find_differences(sandbox.run_dirs[0], reference)
    return problems + [f"left: {path}" for path in sandbox.run_dirs[1:]]


def killed_at_start(sandbox: Sandbox, _reference: Path) -> list[str]:
    """Killed before it joins: the other rank waits for it, and exits at torchrun's SIGTERM without a run."""
    outcomes = run_ranks(sandbox, *RESUME_ARGS, faults={1: inject.kill})
    problems = check_outcomes(outcomes, (128 + signal.SIGTERM, -signal.SIGKILL))
    return problems + [f"left: {path}" for path in sandbox.run_dirs]


def kill_while_saving() -> None:
    """Kill at the write of the second checkpoint."""
    from scsuite.core.model import checkpoint

    inject.save_every_epoch()
    inject.before_call(checkpoint, "write_atomic", inject.kill, call=2)


def frozen_rank(sandbox: Sandbox, reference: Path) -> list[str]:
    """76: after the group's timeout, here five seconds, the other rank exits, and torchrun kills the frozen one."""

    def shorten_timeout() -> None:
        from scsuite.core import distributed

        distributed.COLLECTIVE_SECONDS = 5.0

    def freeze() -> None:
        shorten_timeout()
        at_train_step(10, lambda: os.kill(os.getpid(), signal.SIGSTOP))()

    outcomes = run_ranks(sandbox, *RESUME_ARGS, faults={0: shorten_timeout, 1: freeze})
    return check_outcomes(outcomes, (4, -signal.SIGKILL), "another rank is gone") + resume(sandbox, reference)


# --- 77: a rank that raises ---


def raising_rank(sandbox: Sandbox, reference: Path) -> list[str]:
    """Only its own line is printed, although the other rank sees a closed connection."""
    from scsuite.core.errors import InputError

    error = InputError("bad batch", "image 7", expected="pixels", found="none", hint="Fix the data.")
    outcomes = run_ranks(sandbox, *RESUME_ARGS, faults={1: at_train_step(10, inject.raise_error(error))})
    return check_outcomes(outcomes, (4, 3), "bad batch") + resume(sandbox, reference)


def full_disk(sandbox: Sandbox, _reference: Path) -> list[str]:
    """Rank 0 cannot save: the other waits no longer than torchrun lets it."""
    outcomes = run_ranks(sandbox, *WIDE_ARGS, faults={0: lambda: inject.limit_file_size(2**20)})
    return check_outcomes(outcomes, (4, 4), "File too large") + find_partial_files(sandbox.runs)


def nan_on_one_rank(sandbox: Sandbox, reference: Path) -> list[str]:
    """70: a pixel in the shard of rank 1; both ranks exit at the same step, and one of them reports it."""
    outcomes = run_ranks(sandbox, *RESUME_ARGS, faults={1: lambda: inject.poison_batch(10, float("nan"))})
    return check_outcomes(outcomes, (5, 5), "step 10", "--lr-max") + resume(sandbox, reference)


def refusal(code: int, *words: str, arguments: tuple[object, ...]) -> Check:
    """All ranks refuse, one of them says so; there is no run."""

    def check(sandbox: Sandbox, _reference: Path) -> list[str]:
        outcomes = run_ranks(sandbox, *arguments)
        problems = check_outcomes(outcomes, (code,) * WORLD_SIZE, *words)
        return problems + [f"left: {path}" for path in sandbox.run_dirs]

    return check


# --- 78: signals ---


def stop_by_signal(code: int, faults: RankFaults) -> Check:
    """All ranks exit after one step with the signal's code, whichever of them got it, and the run resumes."""

    def check(sandbox: Sandbox, reference: Path) -> list[str]:
        outcomes = run_ranks(sandbox, *RESUME_ARGS, faults=faults)
        problems = check_outcomes(outcomes, (code,) * WORLD_SIZE, "scsuite train --resume")
        return problems + find_partial_files(sandbox.runs) or resume(sandbox, reference)

    return check


def signal_each_rank(signum: int, *calls: int) -> RankFaults:
    """A signal to each rank as it starts its own step: torchrun sends them one after the other."""
    return {rank: at_train_step(call, inject.send_signal(signum)) for rank, call in enumerate(calls)}


def signal_in_evaluation(signum: int) -> inject.Action:
    """A signal as the second evaluation starts."""

    def before() -> None:
        from scsuite.core.training.trainer import Trainer

        inject.before_call(Trainer, "evaluate", inject.send_signal(signum), call=2)

    return before


def stop_in_range_test(sandbox: Sandbox, _reference: Path) -> list[str]:
    """A run on two ranks that is stopped in its range test ends like one without a stop."""

    def before() -> None:
        from scsuite.core.lr_range import run_sweep

        inject.before_call(run_sweep, "launch_step", inject.send_signal(signal.SIGTERM), call=30)

    with new_sandbox() as other:
        problems = check_outcomes(run_ranks(other, *RESUME_AUTO_LR_ARGS), (0, 0))
        outcomes = run_ranks(sandbox, *RESUME_AUTO_LR_ARGS, faults={1: before})
        problems += check_outcomes(outcomes, (143, 143), "scsuite train --resume")
        return problems or resume(sandbox, other.run_dirs[0])


# --- 79 and 80: another number of ranks, no store ---


def stop_after_step_10() -> None:
    """SIGTERM after step 10."""
    inject.after_step(10, inject.send_signal(signal.SIGTERM))


def fewer_ranks(sandbox: Sandbox, reference: Path) -> list[str]:
    """79: a run of two ranks is refused by one process, and resumes on two."""
    run_ranks(sandbox, *RESUME_ARGS, faults={0: stop_after_step_10})
    single = run(sandbox, "train", "--resume", sandbox.run_dirs[0])
    is_refused = single.code == 3 and "the same world_size: 2, found 1" in single.err
    return ([] if is_refused else [f"output: {single.err!r}"]) + resume(sandbox, reference)


def more_ranks(sandbox: Sandbox, _reference: Path) -> list[str]:
    """79: a run of one process is refused by two ranks."""
    run(sandbox, *RESUME_ARGS, before=stop_after_step_10)
    outcomes = run_ranks(sandbox, "train", "--resume", sandbox.run_dirs[0])
    return check_outcomes(outcomes, (3, 3), "the same world_size: 1, found 2")


def no_store(sandbox: Sandbox, _reference: Path) -> list[str]:
    """80: no store at the address; the ranks cannot know of each other, so each reports it."""

    def shorten_timeout() -> None:
        from scsuite.core import distributed

        distributed.RENDEZVOUS_SECONDS = 2.0

    outcomes = run_ranks(sandbox, *RESUME_ARGS, faults={0: shorten_timeout, 1: shorten_timeout}, port=1)
    problems = [f"exit {outcome.code}" for outcome in outcomes if outcome.code not in (4, *TERMINATED)]
    if not any("torchrun unreachable: 127.0.0.1:1" in outcome.err for outcome in outcomes):
        problems.append("no rank reports the address")
    problems += [f"output: {o.err!r}" for o in outcomes if o.err and not ERROR_LINE.fullmatch(o.err)]
    return problems + [f"left: {path}" for path in sandbox.run_dirs]


def finished_run(sandbox: Sandbox, reference: Path) -> list[str]:
    """54: resuming a complete run says so, once."""
    return check_outcomes(run_ranks(sandbox, "train", "--resume", reference), (0, 0), "already complete")


def repeated_run(sandbox: Sandbox, reference: Path) -> list[str]:
    """The same command gives the same run, bit for bit, with workers too."""
    outcomes = run_ranks(sandbox, *RESUME_ARGS, "--workers", "1")
    return check_outcomes(outcomes, (0, 0)) + find_differences(sandbox.run_dirs[0], reference)


CHECKS: dict[str, Check] = {
    "H the same again": repeated_run,
    "H75 SIGKILL of rank 1 in a step": killed_rank(1, at_train_step(10, inject.kill)),
    "H75 SIGKILL of rank 1, and a restart": killed_and_restarted,
    "H75 SIGKILL of rank 0 while saving": killed_rank(0, kill_while_saving),
    "H75 SIGKILL of rank 1 at its start": killed_at_start,
    "H76 SIGSTOP of rank 1": frozen_rank,
    "H77 rank 1 raises": raising_rank,
    "H77 the disk of rank 0 full": full_disk,
    "H70 NaN on rank 1": nan_on_one_rank,
    "H77 fewer images than ranks": refusal(2, "--bs", arguments=(*RESUME_ARGS, "--bs", "1")),
    "H77 an unknown option": refusal(2, "--bsx", arguments=(*RESUME_ARGS, "--bsx", "1")),
    "H77 missing data": refusal(3, "nowhere", arguments=(*RESUME_ARGS, "--data", "nowhere")),
    "H77 ranks that differ": refusal(3, "the same seed", arguments=(*RESUME_ARGS, "--seed", "{rank}")),
    "H77 a command for one process": refusal(2, "without torchrun", arguments=("zigzag", "--cycles", "1")),
    "H78 SIGTERM, to one after the other": stop_by_signal(143, signal_each_rank(signal.SIGTERM, 9, 10)),
    "H78 SIGTERM, in the other order": stop_by_signal(143, signal_each_rank(signal.SIGTERM, 10, 9)),
    "H78 SIGINT to rank 1 alone": stop_by_signal(130, {1: at_train_step(9, inject.send_signal(signal.SIGINT))}),
    "H78 SIGTERM in an evaluation": stop_by_signal(143, {1: signal_in_evaluation(signal.SIGTERM)}),
    "H78 SIGTERM in the range test": stop_in_range_test,
    "H79 two ranks, then one": fewer_ranks,
    "H79 one rank, then two": more_ranks,
    "H80 no store at the address": no_store,
    "F54 a finished run": finished_run,
}


def rows(quick: bool) -> list[ScoreRow]:
    """One row: all checks. The quick scorecard does not contain this group."""
    row = ScoreRow(
        "H faults of ranks", "all: exit codes, the cause once, within a minute; resumed to the same end, bit for bit"
    )
    with new_sandbox() as reference_sandbox:
        outcomes = run_ranks(reference_sandbox, *RESUME_ARGS)
        assert all(outcome.code == 0 for outcome in outcomes), outcomes
        reference = reference_sandbox.run_dirs[0]
        for name, check in CHECKS.items():
            with new_sandbox() as sandbox:
                row.run(name, lambda check=check, sandbox=sandbox: check(sandbox, reference))  # type: ignore[misc]
    return [row]
