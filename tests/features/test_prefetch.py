"""Work ahead in a thread: order, errors, and an end in every case."""

from __future__ import annotations

import threading
import time

import pytest

from nni_nastc.features.prefetch import Prefetch


def count(upto: int, log: list | None = None, fail_at: int | None = None):
    try:
        for number in range(upto):
            if number == fail_at:
                raise KeyError(number)
            if log is not None:
                log.append(number)
            yield number
    finally:
        if log is not None:
            log.append(f"closed in {threading.current_thread().name}")


@pytest.mark.parametrize("upto", [0, 1, 2, 100])
def test_items_come_in_their_order(upto):
    with Prefetch(count(upto)) as items:
        assert list(items) == list(range(upto))


def test_it_runs_ahead_but_only_so_far():
    log: list = []
    with Prefetch(count(100, log), ahead=3) as items:
        iterator = iter(items)
        assert next(iterator) == 0
        deadline = time.monotonic() + 5
        while len(log) < 5 and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.1)
        assert log == [0, 1, 2, 3, 4]  # one was taken, three wait, one waits for a place
    assert log[-1] == "closed in nastc-prefetch"


def test_an_error_comes_in_its_place():
    seen = []

    def run() -> None:
        with Prefetch(count(5, fail_at=2)) as items:
            for item in items:
                seen.append(item)

    with pytest.raises(KeyError, match="2"):
        run()
    assert seen == [0, 1]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, GeneratorExit])
def test_leaving_ends_the_thread(error):
    before = threading.active_count()
    log: list = []

    def run() -> None:
        with Prefetch(count(1000, log)) as items:
            for _ in items:
                raise error

    with pytest.raises(error):
        run()
    assert threading.active_count() == before
    assert log[-1] == "closed in nastc-prefetch"


def test_leaving_without_a_look():
    before = threading.active_count()
    with Prefetch(count(1000)):
        pass
    assert threading.active_count() == before
