"""The command line: options > config > core > rundir > report; one file a command."""
