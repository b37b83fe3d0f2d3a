"""Mutation tests: wrong changes to the core, and whether a test fails. Run: make mutants."""
