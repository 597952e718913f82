"""Which log lines a person or a program gets to read, and in which format."""

import logging
import os
import sys
from collections.abc import Iterable, Mapping

from tidemill.cli.log_format import JsonFormatter, TextFormatter
from tidemill.cli.log_repeats import Repeats
from tidemill.errors import ConfigError

LOG_LEVEL = "TIDEMILL_LOG"
LOG_FORMAT = "TIDEMILL_LOG_FORMAT"
_FORMATTERS = {"text": TextFormatter, "json": JsonFormatter}
_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")


def set_up_logging(*, verbose: bool, env: Mapping[str, str] = os.environ) -> None:
    """Log to stderr at the level of TIDEMILL_LOG, or INFO if *verbose*, as TIDEMILL_LOG_FORMAT.

    What repeats is written once a minute, with its count.

    Raises:
        ConfigError: there is no such level or format.
    """
    level = _chosen(env, LOG_LEVEL, "WARNING", _LEVELS)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_FORMATTERS[_chosen(env, LOG_FORMAT, "text", _FORMATTERS)]())
    handler.addFilter(Repeats())
    logging.basicConfig(level="INFO" if verbose else level, handlers=[handler])
    if logging.getLogger().level > logging.INFO:  # the error that a command prints says the same
        logging.getLogger("tidemill.librdkafka").setLevel(logging.CRITICAL)


def _chosen(env: Mapping[str, str], name: str, default: str, choices: Iterable[str]) -> str:
    """Return the one of *choices* that *env* names, whatever its case."""
    known = {choice.casefold(): choice for choice in choices}
    value = env.get(name) or default
    if value.casefold() not in known:
        raise ConfigError(f"{name} is {value!r}", hint=f"set it to one of {', '.join(choices)}")
    return known[value.casefold()]


def quiet_faust() -> None:
    """Log no more than the warnings of Faust, Mode and aiokafka; the rest is for their authors."""
    level = max(logging.WARNING, logging.getLogger().level)
    for name in ("faust", "mode", "aiokafka"):
        logging.getLogger(name).setLevel(level)
