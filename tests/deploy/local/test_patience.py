"""A start that takes long is waited for as long as it works."""

import os
import time

import pytest

from tidemill.deploy.local.patience import Patience, cpu_seconds


def test_it_waits_while_the_process_works_and_not_for_ever() -> None:
    """A broker that recovers its logs was killed after 90 s, and began again."""
    used_s = 0.0
    patience = Patience(1, 90.0, cpu_s=lambda _pid: used_s)
    start = time.monotonic()
    assert not patience.is_over(start + 80.0), "nothing is looked at before it is due"
    used_s = 50.0
    assert not patience.is_over(start + 100.0)
    assert not patience.is_over(start + 180.0)
    used_s = 100.0
    assert not patience.is_over(start + 195.0)
    used_s = 108.0  # less than a tenth of a core: it waits for something
    assert patience.is_over(start + 290.0)
    used_s = 10_000.0
    assert patience.is_over(start + 901.0)


@pytest.mark.slow
def test_the_time_of_a_process_is_that_of_the_system() -> None:
    """What `ps` prints has minutes, hours and days."""
    deadline = time.process_time() + 1.5
    while time.process_time() < deadline:
        pass
    assert 1.0 <= cpu_seconds(os.getpid()) <= time.process_time() + 1.0
    assert cpu_seconds(2**22 + 1) == 0.0
