"""Several transfers at once, where a caller asks for it: bounded in threads and in what waits."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def in_parallel(work: Callable[[T], R], items: Iterable[T], *, workers: int = 8) -> Iterator[R]:
    """Yield `work(item)` for each item, in their order, with up to `workers` calls under way.

    At most twice as many results wait to be taken, so that memory is bounded by them; `items` is read no further. The
    first exception is raised where its result would have come; what is under way then ends, and nothing new begins.
    """
    waiting: deque[Future[R]] = deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="transfer")
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) >= 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
