"""
What systemd is told: ready, reloading, stopping, and that the reactor turns.

It is the protocol of C{sd_notify(3)}, a datagram to the socket that the
environment names. Where there is none, nobody is told. A reactor that hangs
can't send its C{WATCHDOG=1}, and systemd starts the server again.
"""

import os
import socket
import time
from collections.abc import Mapping
from typing import Final

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

_MICROSECONDS: Final = 1_000_000


class Supervisor:
    """
    The systemd that runs this process, or nobody.
    """

    _log = Logger()

    def __init__(
        self, clock: IReactorTime, environment: Mapping[str, str] = os.environ
    ) -> None:
        self._clock = clock
        self._address = environment.get("NOTIFY_SOCKET", "")
        self._interval = _watchdog(environment) / 2
        self._beat: IDelayedCall | None = None

    def ready(self) -> None:
        """
        Everything listens, and the ledger is open; or a reload is over.
        """
        self._tell("READY=1", "STATUS=Serving.")
        if self._interval and self._beat is None:
            self._beatLater()

    def reloading(self) -> None:
        """
        A reload has begun.
        """
        # systemd wants the second line where the unit is Type=notify-reload.
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._tell("RELOADING=1", f"MONOTONIC_USEC={now}", "STATUS=Reloading.")

    def stopping(self) -> None:
        """
        The stop has begun; the reactor still turns.
        """
        self._tell("STOPPING=1", "STATUS=Answering who waits, then stopping.")

    def stopped(self) -> None:
        """
        Say no more.
        """
        if self._beat is not None:
            self._beat.cancel()
            self._beat = None

    def _beatLater(self) -> None:
        self._beat = self._clock.callLater(self._interval, self._alive)

    def _alive(self) -> None:
        self._tell("WATCHDOG=1")
        self._beatLater()

    def _tell(self, *lines: str) -> None:
        if not self._address:
            return
        # An address with @ is in Linux's abstract namespace.
        address = self._address.replace("@", "\0", 1)
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                # Never wait for a systemd that is busy.
                sender.setblocking(False)
                sender.sendto("\n".join(lines).encode(), address)
        except OSError as e:
            self._log.warn(
                "systemd was not told {what}: {why}", what=lines[0], why=e.strerror
            )


def _watchdog(environment: Mapping[str, str]) -> float:
    """
    Seconds within which systemd wants to hear again and again that this
    process is alive; 0 if it doesn't.
    """
    if environment.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return 0.0
    text = environment.get("WATCHDOG_USEC", "")
    return int(text) / _MICROSECONDS if text.isdecimal() else 0.0
