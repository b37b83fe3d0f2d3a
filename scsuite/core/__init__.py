"""The work itself. It imports no typer, rich or matplotlib, and never prints; see scsuite/README.md for the order."""
