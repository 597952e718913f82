"""Which log lines a person gets to read."""

import logging
import os


def set_up_logging(*, verbose: bool) -> None:
    """Log to stderr at the level of TIDEMILL_LOG, or INFO if *verbose*."""
    level = "INFO" if verbose else os.environ.get("TIDEMILL_LOG", "WARNING").upper()
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    if logging.getLogger().level > logging.INFO:  # the error that a command prints says the same
        logging.getLogger("tidemill.librdkafka").setLevel(logging.CRITICAL)


def quiet_faust() -> None:
    """Log no more than the warnings of Faust, Mode and aiokafka; the rest is for their authors."""
    level = max(logging.WARNING, logging.getLogger().level)
    for name in ("faust", "mode", "aiokafka"):
        logging.getLogger(name).setLevel(level)
