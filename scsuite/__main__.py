"""The program's start: what a signal does while it loads, then the program. `python -m scsuite` runs it too.

In: the command line. Out: the exit code of the process.
"""

import os
import signal
import sys


def main() -> int:
    """Load the program and run it. Until it has its own handlers, a signal ends the process without a traceback."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        signum = getattr(signal, name, None)  # Windows lacks the last one
        if signum is not None and signal.getsignal(signum) != signal.SIG_IGN:  # nohup
            signal.signal(signum, _exit_at_once)

    from scsuite.cli.app import main as run_program

    return run_program()


def _exit_at_once(signum: int, _frame: object) -> None:
    os._exit(128 + signum)  # nothing is open yet, or everything has been written


if __name__ == "__main__":
    sys.exit(main())
