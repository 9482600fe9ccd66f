"""
Notifies systemd that the server is ready, reloading or stopping, and that the
reactor runs.

The protocol is that of C{sd_notify(3)}: a datagram to the socket that the
environment names. Without such a socket nothing is sent. A reactor that hangs
doesn't send its C{WATCHDOG=1}, and systemd restarts the server.
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
    The systemd that runs this process, if one does.
    """

    _log = Logger()

    def __init__(
        self, clock: IReactorTime, environment: Mapping[str, str] = os.environ
    ) -> None:
        self._clock = clock
        self._address = environment.get("NOTIFY_SOCKET", "")
        self._interval = _watchdog(environment) / 2
        self._beat: IDelayedCall | None = None

    def starting(self) -> None:
        """
        The server listens, and its ledger is being opened.
        """
        self._send("STATUS=Starting: opening the ledger.")

    def ready(self) -> None:
        """
        The server listens and its ledger is open; or a reload is done.
        """
        self._send("READY=1", "STATUS=Serving.")
        if self._interval and self._beat is None:
            self._beatLater()

    def reloading(self) -> None:
        """
        A reload has begun.
        """
        # Units of Type=notify-reload need the second line.
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._send("RELOADING=1", f"MONOTONIC_USEC={now}", "STATUS=Reloading.")

    def stopping(self) -> None:
        """
        The stop has begun; the reactor still runs.
        """
        self._send("STOPPING=1", "STATUS=Stopping: answering pending requests.")

    def stopped(self) -> None:
        """
        Send no more watchdog messages.
        """
        if self._beat is not None:
            self._beat.cancel()
            self._beat = None

    def _beatLater(self) -> None:
        self._beat = self._clock.callLater(self._interval, self._alive)

    def _alive(self) -> None:
        self._send("WATCHDOG=1")
        self._beatLater()

    def _send(self, *lines: str) -> None:
        if not self._address:
            return
        # An address with @ is in Linux's abstract namespace.
        address = self._address.replace("@", "\0", 1)
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                # Never wait for a busy systemd.
                sender.setblocking(False)
                sender.sendto("\n".join(lines).encode(), address)
        except OSError as e:
            self._log.warn(
                "systemd was not notified of {what}: {why}",
                what=lines[0],
                why=e.strerror,
            )


def _watchdog(environment: Mapping[str, str]) -> float:
    """
    The longest time in seconds that systemd allows between two watchdog
    messages of this process; 0 if it expects none.
    """
    if environment.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return 0.0
    text = environment.get("WATCHDOG_USEC", "")
    return int(text) / _MICROSECONDS if text.isdecimal() else 0.0
