"""What is measured in several tests."""

import tracemalloc
from collections.abc import Callable


def bytes_per_row(make: Callable[[int], object]) -> float:
    """Return the bytes by which the peak of Python's memory grows with a row, where `make` makes so many rows."""

    def peak(count: int) -> int:
        tracemalloc.start()
        make(count)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak(299)  # what is loaded once
    return (peak(1500) - peak(300)) / 1200
