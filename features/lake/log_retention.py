"""What keeps a Delta log short: checkpoints, cleaning, and thinning of old checkpoints."""

import contextlib

from deltalake import PostCommitHookProperties

from tidemill.features.lake.storage import Storage

CHECKPOINT_EVERY = 10  # commits; each commit replays the log from the last checkpoint on
CLEAN_EVERY = 100  # commits; a cleaning lists the whole log to find expired entries


def commit_hooks(version: int) -> PostCommitHookProperties:
    """Return what deltalake does after the commit of *version*: a cleaning if one is due.

    How long entries are kept is a property of the table.
    """
    is_due = version % CLEAN_EVERY == 0
    return PostCommitHookProperties(cleanup_expired_logs=None if is_due else False)


def thin_checkpoints(storage: Storage, folder: str, version: int) -> None:
    """Remove nine in ten of the older checkpoints, because each names every file of the table.

    It runs once in `CLEAN_EVERY` commits, after the commit of *version*. Checkpoints of the last
    hundred commits stay, because a reader may be about to open one. All stay if the log begins
    later than the hundred commits before those: the versions there need one. What cannot be removed
    now does no harm, and expires.
    """
    first = version - 2 * CLEAN_EVERY
    if version % CLEAN_EVERY or first < 0:
        return
    log = f"{folder}/_delta_log"
    with contextlib.suppress(OSError):
        storage.read(f"{log}/{first:020d}.json")
        for old in range(first, version - CLEAN_EVERY):
            if (old + 1) % CLEAN_EVERY and (old + 1) % CHECKPOINT_EVERY == 0:
                storage.remove(f"{log}/{old:020d}.checkpoint.parquet")
