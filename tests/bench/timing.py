"""How two things are compared on a machine that is not quiet: in turn, in one process, by their medians."""

import gc
import statistics
import time
from collections.abc import Callable


def alternating(first: Callable[[], object], second: Callable[[], object], repeats: int) -> tuple[float, float]:
    """Median seconds of both, called in turn so that a noisy machine troubles them alike; one warm-up each."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for repeat in range(repeats + 1):
        for function, kept in zip((first, second), seconds, strict=True):
            gc.collect()
            begin = time.perf_counter()
            function()
            if repeat:
                kept.append(time.perf_counter() - begin)
    return statistics.median(seconds[0]), statistics.median(seconds[1])
