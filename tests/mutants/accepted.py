"""Mutants that need no test: why they change nothing that anybody could observe."""

ACCEPTED: dict[str, dict[str, str]] = {}  # path, change: reason
