"""The work itself: importable without typer, rich, matplotlib; never prints; a room imports only rooms above it."""
