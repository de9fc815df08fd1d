"""Whether files are what is remembered of them: as the system tells and, where that is not enough, by their contents.

A file in the state that it was read in is unchanged. One in another state may be so, too: copied, restored, touched, or
on a disk that was mounted anew. Then its SHA-256 decides.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

from fext.data.images import FileState, checksum, file_state, read_file
from fext.errors import ImageRejected

_Item = TypeVar("_Item")

_NUM_THREADS = 4  # that read and compute checksums, for both of which Python lets go of its lock
_AHEAD = 8  # files that are given to each thread before the first of them is asked for


class Remembered(NamedTuple, Generic[_Item]):
    """What is known of a file: its path (None where nothing is known), the state it had and the SHA-256, '' where that
    was not kept; whether contents are compared even where the state is the same. `item` is what it is known for."""

    item: _Item
    path: Path | None
    state: FileState
    sha256: str
    by_contents: bool = False


def look_again(files: Iterable[Remembered[_Item]]) -> Iterator[tuple[_Item, FileState | None]]:
    """Of each file, in order, the state that it has now; None where nothing shows that it is the same file.

    Several threads compare contents; of a few files at a time these are in memory.
    """
    waiting: deque[tuple[_Item, FileState | None, Future[FileState | None] | None]] = deque()
    with ThreadPoolExecutor(_NUM_THREADS) as pool:
        try:
            for file in files:
                state, path = _as_told(file)
                if path is None and not waiting:  # as good as always
                    yield file.item, state
                    continue
                waiting.append((file.item, state, pool.submit(_by_contents, path, file.sha256) if path else None))
                while waiting and (waiting[0][2] is None or len(waiting) > _AHEAD * _NUM_THREADS):
                    yield _answer(*waiting.popleft())
            while waiting:
                yield _answer(*waiting.popleft())
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def state_if_same(path: Path, state: FileState, sha256: str, by_contents: bool = False) -> FileState | None:
    """As look_again, of one file."""
    return next(look_again([Remembered(None, path, state, sha256, by_contents)]))[1]


def _as_told(file: Remembered[_Item]) -> tuple[FileState | None, Path | None]:
    """What can be said of a file without reading it; and its path where that does not decide."""
    if file.path is None:
        return None, None
    now = file_state(file.path)
    if now == file.state and not file.by_contents:
        return now, None
    return None, file.path if file.sha256 and now.size == file.state.size else None


def _by_contents(path: Path, sha256: str) -> FileState | None:
    try:
        data, state = read_file(path)
    except ImageRejected:
        return None
    return state if checksum(data) == sha256 else None


def _answer(
    item: _Item, state: FileState | None, compared: Future[FileState | None] | None
) -> tuple[_Item, FileState | None]:
    return item, state if compared is None else compared.result()
