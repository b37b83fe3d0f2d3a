"""H: faults of a training over two processes: ranks that die, hang, raise or differ, signals, another number of ranks.

Forked as in the other groups, and eval_split as torchrun's agent does it: its store, its variables, SIGTERM to the others
when one fails, SIGKILL after a while. torchrun itself is in tests/core/test_distributed.py.
"""

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.faults import luck
from tests.faults.box import TINY, Box, StepOutput, Process, new_box, run, start
from tests.faults.case import LINE, Row
from tests.faults.same import differences

SIZE = 2
EPOCHS, STEPS_PER_EPOCH = 3, 7
RUN = (*TINY, "--epochs", str(EPOCHS), "--lr-max", "0.1", "--dropout", "0.1", "--ema", "1")
AUTO = (*TINY, "--epochs", str(EPOCHS))  # its range test comes first
SECONDS_MAX = 60.0  # from a fault to the end of all ranks
TERMINATED = (-signal.SIGTERM, 128 + signal.SIGTERM)
POLL_SECONDS = 10.0  # seconds that a rank is given after SIGTERM; torchrun gives it 30
Luck = dict[int, Callable[[], None]]  # what befalls which rank
Check = Callable[[Box, Path], list[str]]


@contextlib.contextmanager
def agent(*, port: int | None = None) -> Iterator[dict[str, str]]:
    """The variables that torchrun gives its processes, and the store that it keeps for them."""
    from datetime import timedelta

    from torch._C._distributed_c10d import TCPStore

    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=60))
    yield {
        "WORLD_SIZE": str(SIZE),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port or store.port),
        "TORCHELASTIC_RUN_ID": "faults",
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "TORCHELASTIC_RESTART_COUNT": "0",
    }


def start_ranks(box: Box, variables: dict[str, str], arguments: tuple[object, ...], fate: Luck) -> list[Process]:
    """All ranks of a command; `{rank}` in an argument is the rank's number."""

    def begin(rank: int) -> Process:
        def before() -> None:
            os.environ.update(variables, RANK=str(rank), LOCAL_RANK=str(rank))
            fate.get(rank, lambda: None)()

        return start(box, [str(word).replace("{rank}", str(rank)) for word in arguments], before)

    return [begin(rank) for rank in range(SIZE)]


def _has_ended(process: Process) -> bool | None:
    """None while it runs, else whether it ended well; it is not reaped."""
    info = os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    return None if info is None else info.si_code == os.CLD_EXITED and info.si_status == 0


def _send(process: Process, signum: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signum)


def end_ranks(ranks: list[Process]) -> list[StepOutput]:
    """Wait for all as torchrun does."""
    failed_at: float | None = None
    while None in (ended := [_has_ended(process) for process in ranks]):
        alive = [process for process, how in zip(ranks, ended, strict=True) if how is None]
        if failed_at is None and False in ended:
            failed_at = time.monotonic()
            for process in alive:
                _send(process, signal.SIGTERM)
        overdue = failed_at is not None and time.monotonic() - failed_at > POLL_SECONDS
        if overdue or time.monotonic() - ranks[0].begin > 2 * SECONDS_MAX:
            for process in alive:
                _send(process, signal.SIGKILL)
        time.sleep(0.005)
    return [process.end() for process in ranks]


def run_ranks(box: Box, *arguments: object, fate: Luck | None = None, port: int | None = None) -> list[StepOutput]:
    """Start all ranks of a command and wait for their end."""
    with agent(port=port) as variables:
        return end_ranks(start_ranks(box, variables, arguments, fate or {}))


def expect(outcomes: list[StepOutput], codes: tuple[int, ...], *words: str) -> list[str]:
    """What is wrong with an end: codes by rank, one error line from all of them where it is an error's, words.

    A rank that torchrun's SIGTERM meets on its way out may have that code instead.
    """
    said, errors = "".join(o.out + o.err for o in outcomes), "".join(o.err for o in outcomes)
    problems = []
    found = tuple(outcome.code for outcome in outcomes)
    if any(code not in (wanted, *TERMINATED) for code, wanted in zip(found, codes, strict=True)) or (
        set(found) <= set(TERMINATED) and codes != found
    ):
        problems.append(f"exit {found}, not {codes}")
    if any(code in range(1, 7) for code in codes) and not LINE.fullmatch(errors):
        problems.append("stderr of all ranks is not one error line")
    if outcomes[1].out:
        problems.append("the second rank printed")
    if "Traceback" in said:
        problems.append("a traceback")
    if (slowest := max(outcome.seconds for outcome in outcomes)) > SECONDS_MAX:
        problems.append(f"took {slowest:.0f} s")
    problems += [f"does not say {word!r}" for word in words if word not in said]
    return [*problems, f"it said: {said[-600:]!r}"] if problems else []


def goes_on(box: Box, reference: Path, *words: str) -> list[str]:
    """Resume the box's only run on two ranks, to the reference's end."""
    if len(box.run_dirs) != 1:
        return [f"{len(box.run_dirs)} run directories"]
    resumed = run_ranks(box, "train", "--resume", box.run_dirs[0])
    return expect(resumed, (0, 0), *words) + differences(box.run_dirs[0], reference)


def at_train_step(call: int, action: Callable[[], None]) -> Callable[[], None]:
    """Act as a rank begins a step."""

    def before() -> None:
        from scsuite.core import loop

        luck.around(loop, "train_step", action, call)

    return before


def _raise(error: BaseException) -> Callable[[], None]:
    def action() -> None:
        raise error

    return action


# --- 75 and 76: a rank that dies or hangs ---


def killed(rank: int, before: Callable[[], None]) -> Check:
    """The other says that one is gone; the run goes on from its last commit to the same end."""

    def check(box: Box, reference: Path) -> list[str]:
        outcomes = run_ranks(box, *RUN, fate={rank: before})
        codes = (4, -signal.SIGKILL) if rank else (-signal.SIGKILL, 4)
        return expect(outcomes, codes, "another rank is gone") + goes_on(box, reference)

    return check


def killed_and_restarted(box: Box, reference: Path) -> list[str]:
    """With `--max-restarts 1` torchrun repeats the command as it was, and the run that it began goes on."""
    with agent() as variables:  # one store for both
        outcomes = end_ranks(start_ranks(box, variables, RUN, {1: at_train_step(17, luck.kill)}))
        again = end_ranks(start_ranks(box, variables | {"TORCHELASTIC_RESTART_COUNT": "1"}, RUN, {}))
    problems = expect(outcomes, (4, -signal.SIGKILL), "another rank is gone") + expect(again, (0, 0), "resumed")
    return problems + differences(box.run_dirs[0], reference) + [f"left: {path}" for path in box.run_dirs[1:]]


def killed_at_start(box: Box, _reference: Path) -> list[str]:
    """Before it joins: the other is still waiting for it, and leaves at torchrun's SIGTERM without a run."""
    outcomes = run_ranks(box, *RUN, fate={1: luck.kill})
    return expect(outcomes, (128 + signal.SIGTERM, -signal.SIGKILL)) + [f"left: {path}" for path in box.run_dirs]


def killed_in_a_commit() -> None:
    """At the write of the second state file."""
    from scsuite.core import checkpoint

    luck.commit_every_epoch()
    luck.around(checkpoint, "commit", luck.kill, call=2)


def stopped_for_good(box: Box, reference: Path) -> list[str]:
    """76: after the group's time-out, here five seconds, the others leave, and torchrun ends it."""

    def impatient() -> None:
        from scsuite.core import distributed

        distributed.TIMEOUT = 5.0

    def frozen() -> None:
        impatient()
        at_train_step(10, lambda: os.kill(os.getpid(), signal.SIGSTOP))()

    outcomes = run_ranks(box, *RUN, fate={0: impatient, 1: frozen})
    return expect(outcomes, (4, -signal.SIGKILL), "another rank is gone") + goes_on(box, reference)


# --- 77: a rank that raises ---


def one_raises(box: Box, reference: Path) -> list[str]:
    """Its own line stands alone, though the other sees a connection closed."""
    from scsuite.core.errors import InputError

    error = InputError("bad batch", "image 7", expected="pixels", found="none", hint="Mend the data.")
    outcomes = run_ranks(box, *RUN, fate={1: at_train_step(10, _raise(error))})
    return expect(outcomes, (4, 3), "bad batch") + goes_on(box, reference)


def disk_full(box: Box, _reference: Path) -> list[str]:
    """Rank 0 cannot commit: the other waits for no longer than torchrun lets it."""
    wide = [word if word != "0.05" else "0.25" for word in RUN]
    outcomes = run_ranks(box, *wide, fate={0: lambda: luck.limit_file_size(2**20)})
    problems = expect(outcomes, (4, 4), "File too large")
    return problems + [f"left over: {path}" for path in box.runs.rglob("*.part")]


def nan_on_one(box: Box, reference: Path) -> list[str]:
    """70: a pixel of the second rank's part; both leave at the same step, and one of them says so."""
    outcomes = run_ranks(box, *RUN, fate={1: lambda: luck.poison_batch(10, float("nan"))})
    return expect(outcomes, (5, 5), "step 10", "--lr-max") + goes_on(box, reference)


def refused(code: int, *words: str, arguments: tuple[object, ...]) -> Check:
    """What all ranks refuse, one of them says; there is no run."""

    def check(box: Box, _reference: Path) -> list[str]:
        outcomes = run_ranks(box, *arguments)
        return expect(outcomes, (code,) * SIZE, *words) + [f"left: {path}" for path in box.run_dirs]

    return check


# --- 78: signals ---


def signalled(codes: int, fate: Luck, arguments: tuple[str, ...] = RUN) -> Check:
    """All ranks leave at one step with the signal's code, whichever of them got it, and the run goes on."""

    def check(box: Box, reference: Path) -> list[str]:
        outcomes = run_ranks(box, *arguments, fate=fate)
        problems = expect(outcomes, (codes,) * SIZE, "scsuite train --resume")
        problems += [f"left over: {path}" for path in box.runs.rglob("*.part")]
        return problems or goes_on(box, reference)

    return check


def at_each(signum: int, *calls: int) -> Luck:
    """A signal to each rank as it begins its step, not the same one: torchrun sends them one after the other."""
    return {rank: at_train_step(call, luck.raising(signum)) for rank, call in enumerate(calls)}


def in_evaluation(signum: int) -> Callable[[], None]:
    """As the second evaluation begins."""

    def before() -> None:
        from scsuite.core import loop

        luck.around(loop, "evaluate", luck.raising(signum), call=2)

    return before


def in_the_range_test(box: Box, _reference: Path) -> list[str]:
    """A run on two ranks that finds its rates first, stopped there, ends as one that was not."""

    def before() -> None:
        from scsuite.core import sweep

        luck.around(sweep, "train_step", luck.raising(signal.SIGTERM), call=30)

    with new_box() as other:
        problems = expect(run_ranks(other, *AUTO), (0, 0))
        outcomes = run_ranks(box, *AUTO, fate={1: before})
        problems += expect(outcomes, (143, 143), "scsuite train --resume")
        return problems or goes_on(box, other.run_dirs[0])


# --- 79 and 80: another number of ranks, other words, nobody there ---


def fewer_ranks(box: Box, reference: Path) -> list[str]:
    """79: a run of two ranks is refused by one process, and goes on with two."""
    run_ranks(box, *RUN, fate={0: lambda: luck.after_step(10, luck.raising(signal.SIGTERM))})
    alone = run(box, "train", "--resume", box.run_dirs[0])
    problems = [] if alone.code == 3 and "the same world_size: 2, found 1" in alone.err else [f"it said: {alone.err!r}"]
    return problems + goes_on(box, reference)


def more_ranks(box: Box, _reference: Path) -> list[str]:
    """79: and the other way round."""
    run(box, *RUN, before=lambda: luck.after_step(10, luck.raising(signal.SIGTERM)))
    return expect(run_ranks(box, "train", "--resume", box.run_dirs[0]), (3, 3), "the same world_size: 1, found 2")


def nobody_there(box: Box, _reference: Path) -> list[str]:
    """80: no store at the address; neither can know of the other, so each says it."""

    def impatient() -> None:
        from scsuite.core import distributed

        distributed.RENDEZVOUS_SECONDS = 2.0

    outcomes = run_ranks(box, *RUN, fate={0: impatient, 1: impatient}, port=1)
    problems = [f"exit {outcome.code}" for outcome in outcomes if outcome.code not in (4, *TERMINATED)]
    problems += (
        [] if any("torchrun is gone: 127.0.0.1:1" in outcome.err for outcome in outcomes) else ["nobody says so"]
    )
    problems += [f"it said: {o.err!r}" for o in outcomes if o.err and not LINE.fullmatch(o.err)]
    return problems + [f"left: {path}" for path in box.run_dirs]


def finished(box: Box, reference: Path) -> list[str]:
    """54: a run that is complete says so, once."""
    return expect(run_ranks(box, "train", "--resume", reference), (0, 0), "nothing to do")


def repeated(box: Box, reference: Path) -> list[str]:
    """The same command gives the same run, bit for bit, with workers too."""
    words = [word if before != "--workers" else "1" for before, word in zip(("", *RUN), RUN, strict=False)]
    return expect(run_ranks(box, *words), (0, 0)) + differences(box.run_dirs[0], reference)


CHECKS: dict[str, Check] = {
    "H the same again": repeated,
    "H75 SIGKILL of rank 1 in a step": killed(1, at_train_step(10, luck.kill)),
    "H75 SIGKILL of rank 1, and a restart": killed_and_restarted,
    "H75 SIGKILL of rank 0 in a commit": killed(0, killed_in_a_commit),
    "H75 SIGKILL of rank 1 at its start": killed_at_start,
    "H76 SIGSTOP of rank 1": stopped_for_good,
    "H77 rank 1 raises": one_raises,
    "H77 the disk of rank 0 full": disk_full,
    "H70 NaN on rank 1": nan_on_one,
    "H77 fewer images than ranks": refused(2, "--bs", arguments=(*RUN, "--bs", "1")),
    "H77 an option that is none": refused(2, "--bsx", arguments=(*RUN, "--bsx", "1")),
    "H77 no such data": refused(3, "nowhere", arguments=(*RUN, "--data", "nowhere")),
    "H77 ranks that differ": refused(3, "the same seed", arguments=(*RUN, "--seed", "{rank}")),
    "H77 a command for one": refused(2, "without torchrun", arguments=("zigzag", "--cycles", "1")),
    "H78 SIGTERM, to one after the other": signalled(143, at_each(signal.SIGTERM, 9, 10)),
    "H78 SIGTERM, the other way round": signalled(143, at_each(signal.SIGTERM, 10, 9)),
    "H78 SIGINT to rank 1 alone": signalled(130, {1: at_train_step(9, luck.raising(signal.SIGINT))}),
    "H78 SIGTERM in an evaluation": signalled(143, {1: in_evaluation(signal.SIGTERM)}),
    "H78 SIGTERM in the range test": in_the_range_test,
    "H79 two ranks, then one": fewer_ranks,
    "H79 one rank, then two": more_ranks,
    "H80 nobody at the address": nobody_there,
    "F54 a finished run": finished,
}


LEFT_OUT = frozenset({  # of the quick scorecard: their like is in it
    "H the same again", "H75 SIGKILL of rank 1 in a step", "H77 rank 1 raises", "H77 an option that is none",
    "H77 no such data", "H77 a command for one", "H78 SIGTERM, the other way round", "H78 SIGTERM in an evaluation",
    "H79 one rank, then two", "H80 nobody at the address",
})  # fmt: skip


def rows(quick: bool) -> list[Row]:
    """One row: all checks, some left out if `quick`."""
    row = Row(
        "H faults of ranks", "all: exit codes, the cause once, within a minute; resumed to the same end, bit for bit"
    )
    with new_box() as whole:
        outcomes: Any = run_ranks(whole, *RUN)
        assert all(outcome.code == 0 for outcome in outcomes), outcomes
        for name, check in CHECKS.items():
            if quick and name in LEFT_OUT:
                continue
            with new_box() as box:
                row.count(name, check(box, whole.run_dirs[0]))
    return [row]
