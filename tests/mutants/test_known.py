"""The list of known wrong changes still fits the code; `python -m tests.mutants --known` runs the tests on each."""

from collections import Counter

from tests.mutants.known import KNOWN
from tests.mutants.targets import REPOSITORY


def test_each_known_change_applies_to_one_place() -> None:
    texts = {path: (REPOSITORY / path).read_text(encoding="utf-8") for path in {known.path for known in KNOWN}}
    wrong = {known.name: count for known in KNOWN if (count := texts[known.path].count(known.old)) != 1}
    assert not wrong
    for known in KNOWN:
        compile(texts[known.path].replace(known.old, known.new), known.path, "exec")


def test_the_names_of_known_changes_differ() -> None:
    assert max(Counter(known.name for known in KNOWN).values()) == 1
