"""What is done after an answer is done once, in order, and never in the way."""

import threading

from tidemill.serving.stages.shadow_thread import ShadowThread


def test_calls_are_made_in_order_by_another_thread() -> None:
    """The thread of the answer goes on meanwhile."""
    thread, made = ShadowThread(), []
    for number in range(100):
        assert thread.take(lambda number=number: made.append((number, threading.current_thread())))  # type: ignore[misc]  # a default of a lambda
    assert thread.drain()
    thread.close()
    assert [number for number, _ in made] == [*range(100)]
    assert threading.current_thread() not in {by for _, by in made}


def test_no_more_calls_wait_than_there_is_room_for() -> None:
    """A model slower than the traffic would fill the memory."""
    thread, free = ShadowThread(room=3), threading.Event()
    begun = threading.Event()

    def wait() -> None:
        begun.set()
        free.wait()

    assert thread.take(wait)
    begun.wait()
    assert [thread.take(lambda: None) for _ in range(5)] == [True, True, True, False, False]
    free.set()
    assert thread.drain()
    thread.close()


def test_a_call_that_fails_is_not_the_last() -> None:
    """A thread that ends by an error would say nothing more about the shadow."""
    thread, made = ShadowThread(), []
    thread.take(lambda: 1 / 0)
    thread.take(lambda: made.append(1))
    assert thread.drain()
    thread.close()
    assert made == [1]


def test_a_closed_thread_takes_nothing_and_one_without_calls_never_begins() -> None:
    """Most workers have no shadow: they have no thread for it either."""
    before = threading.active_count()
    thread = ShadowThread()
    thread.close()
    assert threading.active_count() == before
    assert not thread.take(lambda: None)
