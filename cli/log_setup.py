"""Which log lines a person gets to read."""

import logging
import os

from tidemill.cli.log_repeats import Repeats


def set_up_logging(*, verbose: bool) -> None:
    """Log to stderr at the level of TIDEMILL_LOG, or INFO if *verbose*; repeats once a minute."""
    level = "INFO" if verbose else os.environ.get("TIDEMILL_LOG", "WARNING").upper()
    handler = logging.StreamHandler()
    handler.addFilter(Repeats())
    text = "%(asctime)s %(levelname)s %(name)s: %(message)s"
    logging.basicConfig(level=level, format=text, handlers=[handler])
    if logging.getLogger().level > logging.INFO:  # the error that a command prints says the same
        logging.getLogger("tidemill.librdkafka").setLevel(logging.CRITICAL)


def quiet_faust() -> None:
    """Log no more than the warnings of Faust, Mode and aiokafka; the rest is for their authors."""
    level = max(logging.WARNING, logging.getLogger().level)
    for name in ("faust", "mode", "aiokafka"):
        logging.getLogger(name).setLevel(level)
