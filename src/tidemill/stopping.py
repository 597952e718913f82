"""A stop that ends in time: a process that was asked to stop is gone after `STOP_S` at the latest.

Every process of tidemill may be killed at any moment and loses nothing by it; so one that waits for
a broker or a disk while it stops is ended, and does not keep its supervisor waiting.
"""

import logging
import os
import threading

logger = logging.getLogger(__name__)

STOP_S = 8.0  # of the 10 s that supervisors give


def stop_in_time(after_s: float = STOP_S) -> None:
    """Begin to count: *after_s* from now this process ends with status 0, whatever it is doing."""
    timer = threading.Timer(after_s, _end, (after_s,))
    timer.daemon = True
    timer.start()


def _end(after_s: float) -> None:
    logger.warning(
        "not stopped in order within %g s, so ended as it is; nothing is lost: the next start "
        "goes on from the last commit",
        after_s,
    )
    logging.shutdown()
    os._exit(os.EX_OK)
