"""Threads over kernels that release the interpreter lock, with BLAS held to one thread each."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any


class Workers:
    """A fixed number of threads; work is handed out in pieces and awaited."""

    def __init__(self, threads: int, pool: ThreadPoolExecutor | None):
        self.threads, self._pool = threads, pool

    def each(self, work: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        """Results of work(item), in order, `threads` at a time and a few ahead of the caller."""
        if self._pool is None:
            yield from map(work, items)
            return
        ahead: deque[Future] = deque()
        for item in items:
            ahead.append(self._pool.submit(work, item))
            if len(ahead) > 3 * self.threads:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()

    def ranges(self, work: Callable[[int, int], Any], count: int, heavy: bool = True) -> None:
        """Run work(low, high) over 0 … count in pieces; in this thread where it is too little to share."""
        if self._pool is None or not heavy or count < 2:
            work(0, count)
            return
        step = max(1, min(64, count // (4 * self.threads)))
        for _ in self._pool.map(lambda low: work(low, min(count, low + step)), range(0, count, step)):
            pass


@contextmanager
def workers(threads: int | None) -> Iterator[Workers]:
    """Start the threads for one run. BLAS is limited process-wide while it lasts."""
    count = threads or len(os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1))
    with _one_blas_thread():
        if count == 1:
            yield Workers(1, None)
            return
        pool = ThreadPoolExecutor(count, "linkage")
        try:
            yield Workers(count, pool)
        finally:
            pool.shutdown(cancel_futures=True)  # an interrupted run does not finish its pass first


def _one_blas_thread() -> AbstractContextManager:
    try:
        from threadpoolctl import threadpool_limits
    except ImportError:  # as on a machine with no more than PyTorch: threads of BLAS then compete with ours
        return nullcontext()
    return threadpool_limits(1, "blas")
