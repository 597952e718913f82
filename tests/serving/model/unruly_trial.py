"""A trial whose texts may crash it, hang it, or ask for memory, by the first word of each."""

import os
import signal
import sys

from tidemill.serving.model.trial import checked_trees, main


def trees(text: str, columns: int) -> bytes:
    """Do what the first word says, else what the real trial does."""
    match text.partition(" ")[0]:
        case "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "hang":
            signal.pause()
        case "chatter":
            while True:
                print("no end of words", file=sys.stderr)
        case "grow":
            return bytes(2**40)
        case "raise":
            raise RuntimeError("a mistake of the library")
    return checked_trees(text, columns)


if __name__ == "__main__":
    sys.exit(main(trees))
