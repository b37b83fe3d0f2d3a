"""Check the length of the Markdown files, and the width of their lines: python -m tests.check_docs.

In: the Markdown files that git tracks. Out: one line per problem, and exit code 1 if there is one.
"""

import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
MAX_LINES = {"README.md": 150}  # a student reads it in three minutes
MAX_CHARACTERS = {"README.md": 120}
DEFAULT_LINES, DEFAULT_CHARACTERS = 300, 140


def find_problems(name: str, text: str) -> list[str]:
    """Return a line for each limit that a Markdown file exceeds."""
    lines = text.splitlines()
    max_lines = MAX_LINES.get(name, DEFAULT_LINES)
    max_characters = MAX_CHARACTERS.get(name, DEFAULT_CHARACTERS)
    problems = [f"{name}: {len(lines)} lines, at most {max_lines}"] if len(lines) > max_lines else []
    long_lines = [(number, len(line)) for number, line in enumerate(lines, 1) if len(line) > max_characters]
    return problems + [
        f"{name}:{number}: {length} characters, at most {max_characters}" for number, length in long_lines
    ]


def main() -> int:
    """Print the problems of all tracked Markdown files."""
    command = ["git", "-C", str(REPOSITORY), "ls-files", "*.md"]
    names = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    problems = [line for name in names for line in find_problems(name, (REPOSITORY / name).read_text(encoding="utf-8"))]
    for line in problems:
        print(line)
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main())
