"""The command line, one file per command: options become a configuration, core works, report shows the result."""
