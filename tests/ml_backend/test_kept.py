import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from ml_backend.kept import Kept


def test_the_least_recently_used_goes_first_and_the_newest_stays():
    kept = Kept(limit=20)
    for key in "ab":
        kept.get(key, lambda: np.zeros(10, np.uint8))
    kept.get("a", lambda: pytest.fail("it is there"))
    kept.get("c", lambda: np.zeros(10, np.uint8))
    assert ["a" in kept, "b" in kept, "c" in kept] == [True, False, True] and kept.nbytes == 20
    kept.get("large", lambda: np.zeros(100, np.uint8))
    assert "large" in kept and "c" not in kept and kept.nbytes == 100


def test_several_at_once_make_one():
    kept, made, begin = Kept(limit=1000), [], threading.Barrier(8)

    def make():
        time.sleep(0.02)
        made.append(1)
        return np.zeros(10, np.uint8)

    def ask(_):
        begin.wait()
        return kept.get("a", make)

    with ThreadPoolExecutor(8) as pool:
        values = list(pool.map(ask, range(8)))
    assert len(made) == 1 and kept.nbytes == 10 and all(v is values[0] for v in values)


def test_what_could_not_be_made_is_tried_again():
    kept = Kept(limit=1000)
    with pytest.raises(OSError, match="away"):
        kept.get("a", lambda: (_ for _ in ()).throw(OSError("away")))
    assert kept.get("a", lambda: np.zeros(3, np.uint8)).nbytes == 3
