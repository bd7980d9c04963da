"""Several transfers at once, where a caller asks for it: bounded in threads and in what waits."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from drkit.store.base import Store

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


def is_remote(store: Store) -> bool:
    """Whether each request to the store takes the time of a way there and back."""
    return store.directory is None and "://" in store.url


def soon(store: Store, call: Callable[[], R]) -> Callable[[], R]:
    """Return what gives the result of `call`, or raises what it raises; it may be called again.

    Where requests take their time it begins now, in a thread of its own; elsewhere when the result is asked for.
    """
    result: Future[R] = Future()
    begun = threading.Lock()

    def run() -> None:
        try:
            result.set_result(call())
        except BaseException as error:  # noqa: BLE001  # it is raised where the result is asked for
            result.set_exception(error)

    def wait() -> R:
        if begun.acquire(blocking=False):
            run()
        return result.result()

    if is_remote(store):
        begun.acquire()
        threading.Thread(target=run, name="drkit-soon", daemon=True).start()
    return wait
