"""
The file in which C{creditsync watch} keeps its place over its own restarts.
"""

import os
from pathlib import Path

from attrs import define, field

from creditsync import _wire as wire
from creditsync._client.cursors import checkCursor
from creditsync.errors import InvalidJSON
from creditsync.ledger._opening import sync


class NoPlace(Exception):
    """
    The file has no place that can be used; the message says why.
    """


@define
class PlaceFile:
    """
    A file with a cursor, as the JSON object C{{"cursor":"…"}}.

    It is replaced as a whole, and only after the new content is on disk: whatever
    happens, it has the old place or the new one. Once L{keep} has returned, it is the
    new one, even after a power cut.
    """

    path: Path
    _kept: str | None = field(default=None, init=False)

    def read(self) -> str | None:
        """
        Read the place.

        @return: A cursor, or L{None} if there is no such file.
        @raise NoPlace: Something else is in it, which is not overwritten; or it can't
            be read, or can't be there.
        """
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            if not self.path.parent.is_dir():
                raise NoPlace(
                    f"--state: there is no folder {self.path.parent}"
                ) from None
            return None
        except OSError as e:
            raise NoPlace(f"--state: {self.path} can't be read: {e.strerror}") from e
        try:
            self._kept = checkCursor(wire.decode(content)["cursor"])
        except (InvalidJSON, KeyError, TypeError, ValueError):
            raise NoPlace(
                f"--state: {self.path} is not a file that watch has written: remove it,"
                " or name another one"
            ) from None
        return self._kept

    def keep(self, cursor: str | None) -> None:
        """
        Write the place, if it is another one than the last.

        @raise OSError: It can't be written.
        """
        if cursor is None or cursor == self._kept:
            return
        draft = self.path.with_name(f".{self.path.name}.part")
        try:
            with open(draft, "wb") as file:
                file.write(wire.encodeData({"cursor": cursor}) + b"\n")
                file.flush()
                os.fsync(file.fileno())
            os.replace(draft, self.path)
            sync(str(draft.parent))
        except OSError as e:
            raise OSError(f"--state: {self.path} can't be written: {e.strerror}") from e
        self._kept = cursor
