"""The work itself: importable without typer, rich or matplotlib; never prints; each room imports only rooms above it."""
