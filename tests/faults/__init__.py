"""The fault scorecard: bad input, hostile files, crashes, full disks, signals. Run: `python -m tests.faults`."""

import os

os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")  # as the program does, before torch is imported
