"""Prepares what comes next in a background thread while the present item is used."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
_END = object()


def prefetched(items: Iterator[T], ahead: int = 2) -> Iterator[T]:
    """The same items in the same order, up to `ahead` of them prepared before they are asked for.

    One thread calls `items`, so that what it gives does not change; an error comes up where its item would have. The
    thread ends with the last item, or when the returned iterator is closed or forgotten.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="prefetch") as thread:
        waiting = deque(thread.submit(next, items, _END) for _ in range(ahead))
        while (item := waiting.popleft().result()) is not _END:
            waiting.append(thread.submit(next, items, _END))
            yield item
