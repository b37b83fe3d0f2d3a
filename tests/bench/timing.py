"""Compare the time of two functions on a machine that is not quiet. In: two functions. Out: their median seconds."""

import gc
import statistics
import time
from collections.abc import Callable


def alternating(first: Callable[[], object], second: Callable[[], object], repeats: int) -> tuple[float, float]:
    """Median seconds of both, called in turn so that other work slows both down alike; each is called once before."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for repeat in range(repeats + 1):
        for function, own_seconds in zip((first, second), seconds, strict=True):
            gc.collect()
            start_time = time.perf_counter()
            function()
            if repeat:
                own_seconds.append(time.perf_counter() - start_time)
    return statistics.median(seconds[0]), statistics.median(seconds[1])
