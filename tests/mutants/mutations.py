"""The mutants of a source file, by the operators of mutmut and one of our own.

In: the text of a module. Out: `Mutant` objects, each with the changed text.

mutmut's own runner leaves out properties and tables at the top of a module, which are half of the metrics and all of
the rules' constants; so only its operators are used here.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import libcst as cst
import libcst.matchers as m
from libcst.metadata import MetadataWrapper, PositionProvider
from mutmut.mutation.mutators import mutation_operators

# Not mutated, as no promise depends on it: types and imports, checks of our own invariants, and texts for people.
_SKIPPED = (
    cst.Annotation, cst.Import, cst.ImportFrom, cst.Decorator, cst.Assert, cst.Raise, cst.FormattedString,
)  # fmt: skip


CONTEXT = 50  # characters around a change, in its description


@dataclass(frozen=True)
class Mutant:
    """One change of a file. `lines` are those of its statement: tests that run none of them cannot notice it."""

    path: str
    line: int
    lines: range
    change: str
    text: str


def make_mutants(repository: Path, path: str, count: int, seed: int) -> tuple[list[Mutant], int]:
    """Return the mutants of a file, or `count` of them drawn at random, and how many there are in all."""
    wrapper = MetadataWrapper(cst.parse_module((repository / path).read_text(encoding="utf-8")))
    positions = wrapper.resolve(PositionProvider)
    changes = list(_changes(wrapper.module, None))
    chosen = random.Random(f"{seed} {path}").sample(changes, min(count, len(changes)))
    mutants = []
    for old, new, statement in chosen:
        mutated = wrapper.module.deep_replace(old, new)
        change = describe(wrapper.module.code, mutated.code)
        mutants.append(Mutant(path, positions[old].start.line, _lines(positions, statement), change, mutated.code))
    return sorted(mutants, key=lambda mutant: (mutant.line, mutant.change)), len(changes)


def describe(old: str, new: str) -> str:
    """Return what differs between two texts, with the code around it: `a([b -> c])`."""
    start = _num_equal(old, new)
    end = min(_num_equal(old[::-1], new[::-1]), len(old) - start, len(new) - start)
    while start and (old[start - 1].isalnum() or old[start - 1] in "_."):
        start -= 1
    while end and (old[-end].isalnum() or old[-end] == "_"):
        end -= 1
    changed = f"[{old[start : len(old) - end]} -> {new[start : len(new) - end]}]"
    text = f"{old[max(0, start - CONTEXT) : start]}{changed}{old[len(old) - end :][:CONTEXT]}"
    return " ".join(text.split())


def _num_equal(first: str, second: str) -> int:
    """Return how many characters both begin with."""
    return next(
        (i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), min(len(first), len(second))
    )


def _changes(node: cst.CSTNode, statement: Any) -> Iterator[tuple[cst.CSTNode, cst.CSTNode, cst.CSTNode]]:
    """Yield (old node, new node, statement) of all mutants below a node."""
    if _is_skipped(node):
        return
    if isinstance(node, cst.SimpleStatementLine | cst.BaseCompoundStatement):
        statement = node
    if m.matches(node, m.SimpleStatementLine(body=[m.Expr(value=m.Call() | m.Yield())])):
        yield node, node.with_changes(body=[cst.Pass()]), node  # our own operator: the call is left out
    if not _is_prose(node):
        for kind, operator in mutation_operators:
            if isinstance(node, kind):
                for new in operator(node):
                    if _is_wanted(node, new):
                        yield node, new, statement
    for child in node.children:
        yield from _changes(child, statement)


def _is_skipped(node: cst.CSTNode) -> bool:
    if isinstance(node, _SKIPPED) or m.matches(node, m.If(test=m.Name("TYPE_CHECKING"))):
        return True
    if m.matches(node, m.Arg(keyword=m.Name("strict") | m.Name("stacklevel"))):
        return True  # a check of our own; a line number in a warning
    if not isinstance(node, cst.Call):
        return False
    name: str = cst.Module([]).code_for_node(node.func)
    return name.endswith(("Error", "_error", "warnings.warn", "TypeVar", "getLogger"))


def _is_prose(node: cst.CSTNode) -> bool:
    """Return whether a text has spaces: it is for people, unlike names and keys."""
    return isinstance(node, cst.SimpleString | cst.ConcatenatedString) and " " in cst.Module([]).code_for_node(node)


def _is_wanted(node: cst.CSTNode, new: cst.CSTNode) -> bool:
    """Leave out the change of a text's case, next to XXtextXX, and of calls whose arguments are checks or texts."""
    if isinstance(node, cst.SimpleString):
        return "XX" in cst.ensure_type(new, cst.SimpleString).value
    if isinstance(node, cst.Call):
        pairs = zip_longest(node.args, cst.ensure_type(new, cst.Call).args)
        changed = [before for before, after in pairs if before is not after]
        if changed and m.matches(changed[0], m.Arg(keyword=m.Name("strict") | m.Name("stacklevel"))):
            return False
        return not m.matches(node.func, m.Name("len") | m.Name("isinstance"))
    return True


def _lines(positions: Any, statement: cst.CSTNode) -> range:
    """Return the lines of a statement, without the body of a compound one."""
    start, end = positions[statement].start.line, positions[statement].end.line
    body = getattr(statement, "body", None)
    if isinstance(statement, cst.BaseCompoundStatement) and body is not None:
        end = max(start, positions[body].start.line - 1)
    return range(start, end + 1)
