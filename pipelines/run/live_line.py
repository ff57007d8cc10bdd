"""How far a stage is: in a terminal one live line, in a file or pipe a line a minute."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 60
Item = TypeVar("Item")


def told(items: Iterable[Item], label: str, unit: str, total: int, is_silent: bool = False) -> Iterator[Item]:
    """The items, one by one, while stderr tells how many of `total` are done, how fast, and how long still."""
    if is_silent:
        yield from items
        return
    if sys.stderr.isatty():
        yield from tqdm(items, label, total, unit=unit, dynamic_ncols=True)
        return
    started = last = time.monotonic()
    for number, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if now - last >= SECONDS_BETWEEN_LINES:
            last, rate = now, number / (now - started)
            left = tqdm.format_interval((total - number) / rate)
            print(f"{label}: {unit} {number} of {total}  {rate:.3g}/s  {left} left", file=sys.stderr, flush=True)
