"""Turns: in the order they were asked for, and not waited for longer than asked."""

import threading
import time

from ml_backend.server.turns import Turns


def test_who_asked_first_is_first_even_against_one_that_asks_again_at_once():
    turns, order = Turns(), []
    started, go = threading.Event(), threading.Event()

    def busy() -> None:
        for _ in range(20):
            with turns.turn():
                started.set()
                assert go.wait(60)
            order.append("busy")

    def once(name: str) -> None:
        with turns.turn() as came:
            assert came
            order.append(name)

    threads = [threading.Thread(target=busy)]
    threads[0].start()
    started.wait()
    for number, name in enumerate(("first", "second"), 1):
        threads.append(threading.Thread(target=once, args=(name,)))
        threads[-1].start()
        while turns.waiting < number:
            time.sleep(0.001)
    go.set()
    for thread in threads:
        thread.join()
    # The one that asks again may be there before the first, and between the two.
    assert order.index("first") < order.index("second") <= 3


def test_a_turn_that_does_not_come_in_time_is_given_up():
    turns = Turns()
    with turns.turn(), turns.turn(0.05) as late:
        assert not late
    with turns.turn(0) as came:
        assert came


def test_many_threads_never_share_a_turn():
    turns, inside, most, late = Turns(), [0], [0], []

    def work() -> None:
        for _ in range(50):
            with turns.turn(0.01) as came:
                if not came:
                    late.append(1)
                    continue
                inside[0] += 1
                most[0] = max(most[0], inside[0])
                time.sleep(0.0005)
                inside[0] -= 1

    threads = [threading.Thread(target=work) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] and inside == [0]
    with turns.turn(0) as came:  # nobody holds it
        assert came
