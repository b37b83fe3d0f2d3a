"""Everything that scsuite computes. It never prints and imports no typer, rich or matplotlib; see scsuite/README.md."""
