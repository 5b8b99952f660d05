"""Work ahead in another thread, so that decoding and the network overlap."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterator
from types import TracebackType
from typing import Generic, TypeVar

T = TypeVar("T")

_POLL_S = 0.05


class Prefetch(Generic[T]):
    """Iterate over a generator that runs in a thread, a few items ahead.

    A context manager: when the block is left, for whatever reason, the generator is closed and the thread has ended.
    An error of the generator is raised where its item would have come.

    Parameters
    ----------
    items : generator
        What to run. Only the thread touches it.
    ahead : int
        Items that may wait.
    """

    def __init__(self, items: Generator[T, None, None], ahead: int = 2) -> None:
        self._items = items
        self._queue: queue.Queue[tuple[T | None, BaseException | None]] = queue.Queue(ahead)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="nastc-prefetch", daemon=True)

    def __enter__(self) -> Prefetch[T]:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stopped.set()
        self._thread.join()

    def __iter__(self) -> Iterator[T]:
        while True:
            item, error = self._queue.get()
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            yield item  # type: ignore[misc]

    def _run(self) -> None:
        try:
            for item in self._items:
                if not self._put((item, None)):
                    return
            self._put((None, StopIteration()))
        except Exception as error:
            self._put((None, error))
        finally:
            self._items.close()

    def _put(self, entry: tuple[T | None, BaseException | None]) -> bool:
        """Wait for a free place; False if nobody wants more."""
        while not self._stopped.is_set():
            try:
                self._queue.put(entry, timeout=_POLL_S)
                return True
            except queue.Full:
                continue
        return False
