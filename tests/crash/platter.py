"""
What is written, and what of it is synced: a model of the disk under one folder.

A sector of 512 bytes is written as a whole or not at all, and sectors in any
order: after a power cut each one holds what had been written to it up to some
moment since its last sync. The size of a file is one of those that it had since
then. A file that was made or removed may still be missing, or there again, until
its folder is synced.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from random import Random
from typing import Final

from attrs import Factory, define, field

SECTOR: Final = 512

CREATE: Final = "create"
WRITE: Final = "write"
TRUNCATE: Final = "truncate"
SYNC: Final = "sync"
UNLINK: Final = "unlink"
SYNC_FOLDER: Final = "sync folder"
# A sync that failed.
LOSE: Final = "lose"


@define(eq=False)
class Call:
    """
    A call of SQLite to the disk.

    @ivar kind: One of the constants above.
    @ivar name: The file's name in the folder; none for L{SYNC_FOLDER}.
    @ivar offset: Where to write; for L{TRUNCATE} the new size; for L{LOSE} how
        many of the calls since the last sync reached the disk.
    @ivar data: What to write.
    """

    kind: str
    name: str
    offset: int = 0
    data: bytes = b""


@define(eq=False)
class _File:
    """
    A file's bytes on disk, and the calls since.

    @ivar sizes: Its size before each of those calls, and now.
    """

    synced: bytearray = Factory(bytearray)
    calls: list[Call] = Factory(list)
    sizes: list[int] = field(
        default=Factory(lambda self: [len(self.synced)], takes_self=True)
    )

    def done(self, call: Call) -> None:
        """
        Record a write or a truncation.
        """
        size = call.offset
        if call.kind == WRITE:
            size = max(size + len(call.data), self.sizes[-1])
        self.calls.append(call)
        self.sizes.append(size)

    def sync(self, count: int | None = None) -> None:
        """
        Put the first C{count} calls since the last sync on disk, by default
        all of them, and forget the others.
        """
        synced = self.synced
        for call in self.calls[:count]:
            if call.kind == TRUNCATE:
                _resize(synced, call.offset)
            else:
                if call.offset > len(synced):
                    _resize(synced, call.offset)
                synced[call.offset : call.offset + len(call.data)] = call.data
        self.calls.clear()
        self.sizes = [self.sizes[-1]]

    def image(self, isOnDisk: Callable[[int, int], bool], sizeOf: int) -> bytes:
        """
        The content after a power cut.

        @param isOnDisk: Whether the n-th call since the last sync was on disk
            in this sector; all earlier ones were then too.
        @param sizeOf: After how many of the calls the file had its size.
        """
        image = bytearray(self.synced)
        _resize(image, max(self.sizes))
        last: dict[int, int] = {}
        for number, call in enumerate(self.calls):
            for sector in self._sectors(number, call):
                if isOnDisk(number, sector):
                    last[sector] = number
        for number, call in enumerate(self.calls):
            for sector in self._sectors(number, call):
                if number <= last.get(sector, -1):
                    self._draw(image, number, call, sector)
        _resize(image, self.sizes[sizeOf])
        return bytes(image)

    def unsynced(self) -> bytes:
        """
        The content after a power cut if nothing more reached the disk.
        """
        return self.image(lambda number, sector: False, 0)

    def written(self) -> bytes:
        """
        The content that is read now.
        """
        return self.image(lambda number, sector: True, -1)

    def cut(self, random: Random) -> bytes:
        """
        One of the possible contents after a power cut.
        """
        count = len(self.calls)
        kind = random.randrange(4) if count else 0
        if kind == 0:
            return random.choice((self.unsynced, self.written))()
        # Up to a call, which is torn; any of them; any sector of any of them.
        if kind == 1:
            whole = random.randrange(count)
            onDisk = [number < whole for number in range(count)]
            onDisk[whole] = False
            torn = whole
        else:
            onDisk = [random.random() < 0.5 for _ in range(count)]
            torn = -1

        def isOnDisk(number: int, sector: int) -> bool:
            if number == torn or kind == 3:
                return random.random() < 0.5
            return onDisk[number]

        return self.image(isOnDisk, random.choice((0, count, random.randint(0, count))))

    def _end(self, number: int, call: Call) -> int:
        """
        The end of a call's part of the file.
        """
        if call.kind == TRUNCATE:
            return self.sizes[number]
        return call.offset + len(call.data)

    def _sectors(self, number: int, call: Call) -> range:
        end = self._end(number, call)
        return range(call.offset // SECTOR, (end + SECTOR - 1) // SECTOR)

    def _draw(self, image: bytearray, number: int, call: Call, sector: int) -> None:
        start = max(sector * SECTOR, call.offset)
        end = min(sector * SECTOR + SECTOR, self._end(number, call))
        if end <= start:
            return
        if call.kind == TRUNCATE:
            image[start:end] = bytes(end - start)
        else:
            image[start:end] = call.data[start - call.offset : end - call.offset]


def _resize(data: bytearray, size: int) -> None:
    del data[size:]
    data.extend(bytes(size - len(data)))


class Platter:
    """
    The content of a folder's files, on disk and as they can be read.
    """

    def __init__(self, files: Mapping[str, bytes]) -> None:
        """
        @param files: What is on disk.
        """
        self._onDisk = {name: _File(bytearray(data)) for name, data in files.items()}
        self._files = dict(self._onDisk)
        # The changes of the folder since its last sync: names, with the file
        # created or None.
        self._moves: list[tuple[str, _File | None]] = []

    def put(self, name: str, data: bytes) -> None:
        """
        Have a file on disk that others have written.
        """
        self._onDisk[name] = self._files[name] = _File(bytearray(data))

    def do(self, call: Call) -> None:
        """
        Carry out this call.
        """
        kind, name = call.kind, call.name
        if kind in (WRITE, TRUNCATE):
            # A file that was removed while it is open has no name any more.
            if name in self._files:
                self._files[name].done(call)
        elif kind == SYNC:
            if name in self._files:
                self._files[name].sync()
        elif kind == LOSE:
            self._files[name].sync(call.offset)
        elif kind == SYNC_FOLDER:
            self._onDisk = dict(self._files)
            self._moves.clear()
        else:
            self._move(name, _File() if kind == CREATE else None)

    def _move(self, name: str, file: _File | None) -> None:
        self._moves.append((name, file))
        if file is None:
            del self._files[name]
        else:
            self._files[name] = file

    def unsynced(self) -> dict[str, bytes]:
        """
        The files after a power cut that loses everything that was not synced.
        """
        return {name: file.unsynced() for name, file in self._onDisk.items()}

    def written(self) -> dict[str, bytes]:
        """
        The files as they can be read now: these are left if only the process
        ends.
        """
        return {name: file.written() for name, file in self._files.items()}

    def plain(self) -> Iterator[dict[str, bytes]]:
        """
        The files after a power cut in the basic cases: nothing that was not
        synced, all of it, or the changes of one file only.
        """
        yield self.unsynced()
        yield self.written()
        for written in self._files:
            yield {
                name: file.written() if name == written else file.unsynced()
                for name, file in self._files.items()
            }

    def crash(self, random: Random) -> dict[str, bytes]:
        """
        One of the states that a power cut may leave. The same C{random} gives
        the same one.
        """
        return {name: file.cut(random) for name, file in self._folder(random).items()}

    def _folder(self, random: Random) -> dict[str, _File]:
        """
        The possible contents of the folder: for each name, any state since the
        last sync.
        """
        folder = dict(self._onDisk)
        for name in dict.fromkeys(name for name, _ in self._moves):
            states = [folder.get(name), *(f for n, f in self._moves if n == name)]
            file = random.choice(states)
            folder.pop(name, None)
            if file is not None:
                folder[name] = file
        return folder


def place(files: Mapping[str, bytes], folder: Path | str) -> None:
    """
    Write these files.
    """
    for name, data in files.items():
        (Path(folder) / name).write_bytes(data)


def inMemory() -> str | None:
    """
    A folder for temporary files in memory, if there is one.
    """
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
