"""Runs tests on a mutant, in a child process that has the other packages loaded but not scsuite.

In: test files, mutants. Out: which tests run which lines; which mutants a test notices.

Importing torch takes seconds, and a child of a process that has done it starts at once. scsuite and the tests are
imported in the child, where an import hook gives the changed text of one module; no file is changed. A mutant is run
against the tests that run one of its lines, the fastest first, up to the first that fails.
"""

import contextlib
import gc
import importlib
import importlib.util
import itertools
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from typing import Any

import pytest

from tests.mutants.targets import REPOSITORY

MAX_TEST_SECONDS = 4.0  # of processor time; slower tests are left out
MAX_SECONDS = 10.0  # of the tests that a mutant is run against
PATIENCE = 20  # of the clock for a limit of processor time: a busy machine is slow, and a child that waits is rare
MEMORY_BYTES = 16 << 30  # of addresses: a mutant may ask for any amount
KILLED, SURVIVED, TIMEOUT, INVALID, NO_TEST = "killed", "survived", "timeout", "invalid", "no test"


@dataclass
class Tests:
    """The tests of some files: seconds of each, and those that run each line of each source file."""

    seconds: dict[str, float] = field(default_factory=dict)
    by_line: dict[str, dict[int, set[str]]] = field(default_factory=dict)  # path, line: names of tests

    def of(self, path: str, lines: Sequence[int]) -> list[str]:
        """Return tests that run one of these lines; any test for a line that is run by the import.

        Those in the test file of the module come first, and the fastest first, up to MAX_SECONDS in all.
        """
        names: set[str] = set()
        for line in lines:
            names |= self.by_line.get(path, {}).get(line, set())
        if "" in names:
            names = set(self.seconds)
        own = f"test_{Path(path).stem}.py::"
        ordered = sorted(names & self.seconds.keys(), key=lambda name: (own not in name, self.seconds[name], name))
        ends = itertools.accumulate(self.seconds[name] for name in ordered)
        return [name for name, end in zip(ordered, ends, strict=True) if end <= MAX_SECONDS]


class _Recorder:
    """A pytest plugin that records how long each test takes and which lines it, and its fixtures, run."""

    def __init__(self, coverage: Any) -> None:
        self.coverage = coverage
        self.seconds: dict[str, float] = {}
        self.fixtures: dict[str, list[str]] = {}
        self.failed: list[str] = []

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        self.fixtures[item.nodeid] = list(getattr(item, "fixturenames", ()))
        self.coverage.switch_context(item.nodeid)
        start = sum(os.times()[:4])  # processor time, of children too: the same on a busy machine
        result = yield
        self.seconds[item.nodeid] = sum(os.times()[:4]) - start
        self.coverage.switch_context("")
        return result

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: Any, request: Any) -> Iterator[None]:
        if fixturedef.scope == "function":
            return (yield)
        self.coverage.switch_context(f"fixture {fixturedef.argname}")  # all tests that use it depend on it
        result = yield
        self.coverage.switch_context(request._pyfuncitem.nodeid)
        return result

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed or report.skipped:
            self.failed.append(report.nodeid)


class _FirstFailure:
    """A pytest plugin that keeps the name of the first test that failed."""

    name = ""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed and not self.name:
            self.name = report.nodeid


def record_tests(paths: Sequence[str], files: Sequence[str]) -> tuple[Tests, list[str]]:
    """Run test files once in a child. Returns the tests, and the packages that they import."""
    answer = _in_child(lambda: _record(paths, files), 600.0)
    if answer is None:
        raise RuntimeError(f"the tests do not end: {', '.join(files)}")
    by_line = {
        path: {int(line): set(names) for line, names in lines.items()} for path, lines in answer["by_line"].items()
    }
    return Tests(answer["seconds"], by_line), answer["modules"]


def _record(paths: Sequence[str], files: Sequence[str]) -> dict[str, Any]:
    from coverage import Coverage

    coverage = Coverage(data_file=None, include=[str(REPOSITORY / path) for path in paths], messages=False)
    coverage.start()
    recorder = _Recorder(coverage)
    _run_pytest(list(files), [recorder])
    coverage.stop()
    tests = Tests({n: s for n, s in recorder.seconds.items() if s <= MAX_TEST_SECONDS and n not in recorder.failed})
    users: dict[str, set[str]] = {}
    for name, fixtures in recorder.fixtures.items():
        for fixture in fixtures:
            users.setdefault(f"fixture {fixture}", set()).add(name)
    for path in paths:
        lines = coverage.get_data().contexts_by_lineno(str(REPOSITORY / path))
        tests.by_line[path] = {
            line: set().union(*(users.get(context, {context}) for context in contexts))
            for line, contexts in lines.items()
        }
    own = ("scsuite", "tests", "coverage", "_pytest", "pytest", "conftest", "__")
    modules = [name for name in sys.modules if not name.startswith(own)]
    return {"seconds": tests.seconds, "by_line": tests.by_line, "modules": modules}


def preload(modules: Sequence[str]) -> None:
    """Import packages here, so that no child has to."""
    for name in modules:
        if name not in sys.modules:
            with contextlib.suppress(Exception):
                importlib.import_module(name)
    gc.freeze()  # a child need not look through these objects for garbage


def run_mutant(path: str, text: str, names: Sequence[str], seconds: float) -> tuple[str, str]:
    """Return what became of a mutant, and the first test that failed."""
    if not names:
        return NO_TEST, ""
    answer = _in_child(lambda: _try_mutant(path, text, names), 20.0 + 5 * seconds)
    return (TIMEOUT, "") if answer is None else (answer["outcome"], answer["test"])


def _try_mutant(path: str, text: str, names: Sequence[str]) -> dict[str, Any]:
    module = path.removesuffix(".py").replace("/", ".").removesuffix(".__init__")
    sys.meta_path.insert(0, _MutantFinder(module, REPOSITORY / path, text))
    try:
        importlib.import_module(module)
    except BaseException as error:
        return {"outcome": INVALID, "test": f"{type(error).__name__}: {error}"[:200]}
    first = _FirstFailure()
    code = _run_pytest(["-x", *names], [first])
    return {"outcome": SURVIVED if code == 0 else KILLED, "test": first.name or f"exit code {code}"}


class _MutantFinder(MetaPathFinder):
    """Gives one module another text."""

    def __init__(self, module: str, path: Path, text: str) -> None:
        self.module, self.path, self.text = module, path, text

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> ModuleSpec | None:
        if fullname != self.module:
            return None
        loader = SourceFileLoader(fullname, str(self.path))
        loader.get_code = lambda _: compile(self.text, str(self.path), "exec")  # type: ignore[assignment, method-assign]
        return importlib.util.spec_from_file_location(fullname, self.path, loader=loader)


def _run_pytest(arguments: list[str], plugins: list[Any]) -> int:
    # Not the plugin for unraisable exceptions: it collects all garbage several times, which takes longer than a test.
    # Nor the tests of costly transforms, which take minutes where each call is traced.
    options = ["-q", "--assert=plain", "-k", "not costly", f"--basetemp={tempfile.gettempdir()}/pytest"]
    for name in ("cacheprovider", "faulthandler", "unraisableexception"):
        options += ["-p", f"no:{name}"]
    return int(pytest.main([*options, *arguments], plugins=plugins))


def _in_child(work: Any, limit: float) -> Any:
    """Return what `work` returns in a child process; None if it takes longer than the limit or ends otherwise."""
    folder = Path(tempfile.mkdtemp(prefix="mutant-"))
    pid = os.fork()
    if pid == 0:
        _be_child(work, folder, limit)
    try:
        return _wait(pid, folder, limit)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _be_child(work: Any, folder: Path, limit: float) -> None:
    try:
        os.setsid()
        # Processor time too: on a busy machine the clock says little about a loop that never ends.
        resource.setrlimit(resource.RLIMIT_CPU, (int(limit), int(limit) + 5))
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
        with (folder / "output.txt").open("wb") as output:
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
        os.environ["TMPDIR"] = tempfile.tempdir = str(folder)
        answer = work()
        (folder / "answer.json").write_text(json.dumps(answer, default=sorted))
    finally:
        os._exit(0)


def _wait(pid: int, folder: Path, limit: float) -> Any:
    """Wait for a child, and end whatever it has started."""
    deadline = time.monotonic() + PATIENCE * limit
    # WNOWAIT: the child stays a zombie, so that its group's number is not another's when the group is killed.
    while time.monotonic() < deadline and os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        time.sleep(0.02)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    path = folder / "answer.json"
    return json.loads(path.read_text()) if path.exists() else None
