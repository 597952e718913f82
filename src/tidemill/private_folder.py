"""Folders for their owner alone. What is in them needs no mode of its own: nobody gets that far."""

from pathlib import Path

PRIVATE = 0o700


def make_private(folder: Path, mode: int = PRIVATE) -> None:
    """Make *folder*, and those above it that are missing, with *mode* whatever the umask is.

    Folders that exist stay as they are: whoever made them decided.

    Raises:
        OSError: one cannot be made.
    """
    missing = []
    for each in (folder, *folder.parents):
        if each.is_dir():
            break
        missing.append(each)
    for each in reversed(missing):
        try:
            each.mkdir(mode=PRIVATE)
        except FileExistsError:
            if not each.is_dir():
                raise
        else:
            each.chmod(mode)
