"""Files that say who is trusted: what is wrong in them, and what a change does."""

import os
from pathlib import Path

import pytest

from tidemill.access import TokenList, watched_tokens
from tidemill.errors import ConfigError
from tidemill.watched_file import WatchedFile, refuse_others_writing

HASH = "sha256:" + "ab" * 32


@pytest.mark.parametrize(
    "line",
    [
        "shop",
        f"shop {HASH} decide",
        f"shop {HASH} all *",
        f"shop {HASH} decide * fast",
        f"shop {HASH} decide * 0",
        f"shop {HASH} decide * inf",
        f"shop {HASH} decide * 1 2",
        "shop sha256:abc decide *",
        "shop md5:" + "ab" * 32 + " decide *",
    ],
)
def test_a_wrong_line_of_tokens_is_named(line: str, tmp_path: Path) -> None:
    """A line that is passed over is a service that stands still."""
    path = tmp_path / "tokens"
    path.write_text(f"# ours\n{line}\n")
    with pytest.raises(ConfigError, match=r"tokens:2"):
        TokenList.load(path)


def test_a_file_that_others_may_write_is_refused(tmp_path: Path) -> None:
    """Whoever writes it is trusted."""
    path = tmp_path / "tokens"
    path.write_text(f"shop {HASH} decide *  # of May\n")
    for mode in (0o620, 0o602, 0o666):
        path.chmod(mode)
        with pytest.raises(ConfigError, match="others may write it"):
            watched_tokens({"TIDEMILL_HTTP_TOKENS": str(path)})
    path.chmod(0o644)
    found = watched_tokens({"TIDEMILL_HTTP_TOKENS": str(path)})
    assert found is not None
    assert [token.name for token in found.value.tokens] == ["shop"]
    assert watched_tokens({}) is None


def test_a_file_is_read_again_when_it_changes(tmp_path: Path) -> None:
    """A change that is wrong, or a file that is gone, leaves the last good value and says so."""
    path = tmp_path / "file"

    def read(path: Path) -> str:
        refuse_others_writing(path)
        return path.read_text()

    with pytest.raises(ConfigError):
        WatchedFile(path, read)
    path.write_text("a")
    watched = WatchedFile(path, read)
    assert watched.value == "a"
    path.write_text("b")
    os.utime(path, ns=(1, 1))
    assert watched.value == "b"
    assert watched.trouble is None
    path.unlink()
    assert watched.value == "b"
    assert watched.trouble is not None
    path.write_text("c")
    assert watched.value == "c"
    path.chmod(0o666)
    assert watched.value == "c"
    assert watched.trouble is not None
