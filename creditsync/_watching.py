"""
A file that is read again while the server runs, whenever it has changed.

If it can't be used, what was read before stays in force, and the log says so once.
"""

from collections.abc import Callable
from pathlib import Path
from stat import S_ISREG

from twisted.logger import Logger


class WatchedFile:
    """
    A file and its last version that could be used.

    A program that rewrites the file should replace it by a rename. Otherwise half of
    it may be read.

    @ivar path: Where it is.
    @ivar problem: Why the file can't be used now, so that its former content is in
        force; L{None} if it can.
    """

    def __init__(
        self, path: Path, what: str, take: Callable[[bytes], None], log: Logger
    ) -> None:
        """
        Nothing is read yet.

        @param what: What is in the file, in the plural, for messages.
        @param take: Puts the content of the file into force. If it can't be used,
            it raises a C{ValueError} that continues a sentence: C{are not UTF-8}.
        """
        self.path = path
        self.problem: str | None = None
        self._what = what
        self._take = take
        self._log = log
        self._version: tuple[int, ...] | None = None

    def read(self) -> None:
        """
        Read the file for the first time.

        @raise ValueError: It can't be used.
        """
        try:
            self._load()
        except OSError as e:
            raise ValueError(f"the {self._what} in {self.path} {_unreadable(e)}") from e
        except ValueError as e:
            raise ValueError(f"the {self._what} in {self.path} {e}") from None

    def refresh(self) -> None:
        """
        Read the file again if it has changed. If it can't be used, its former content
        stays in force.
        """
        try:
            self._load()
        except OSError as e:
            # If the cause goes away, the file may still have the version seen last.
            self._version = None
            self._complain(_unreadable(e))
        except ValueError as e:
            self._complain(str(e))

    def reload(self) -> None:
        """
        Read the file again, and log its problem even if that was logged before.
        """
        self.problem = self._version = None
        self.refresh()

    def _load(self) -> None:
        stat = self.path.stat()
        # A chmod changes only the st_ctime_ns of these.
        version = stat.st_mtime_ns, stat.st_ctime_ns, stat.st_size, stat.st_ino
        if version == self._version:
            return
        # Set first: a file that is not valid stays so until it changes.
        self._version = version
        if not S_ISREG(stat.st_mode):
            # Reading from a pipe would block the reactor.
            raise ValueError("are not a regular file")
        self._take(self.path.read_bytes())
        if self.problem is not None:
            self.problem = None
            self._log.info(
                "The {what} in {path} can be read again.",
                what=self._what,
                path=str(self.path),
            )

    def _complain(self, cause: str) -> None:
        """
        Log a problem once, not for each command.
        """
        if cause == self.problem:
            return
        self.problem = cause
        self._log.error(
            "The {what} in {path} {cause}; the previous ones stay in force.",
            what=self._what,
            path=str(self.path),
            cause=cause,
        )


def _unreadable(e: OSError) -> str:
    return f"can't be read ({e.strerror})"
