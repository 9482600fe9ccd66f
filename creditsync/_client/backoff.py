"""
The waits between connections, and between the tries of a request.
"""

from collections.abc import Callable

from attrs import define

# Seconds: the first wait, which doubles with each further one, and the longest.
FIRST_DELAY = 0.1
MAX_DELAY = 5.0


@define(eq=False)
class Backoff:
    """
    Waits that grow, and differ from client to client.

    @ivar _random: Returns a number from 0 to 1.
    @ivar _connections: Connections that were tried since one was of use.
    """

    _random: Callable[[], float]
    _connections: int = 0

    def delay(self, failures: int) -> float:
        """
        Seconds to wait after this many failures in a row, which is 1 or more.
        """
        longest = min(FIRST_DELAY * 2.0 ** min(failures - 1, 30), MAX_DELAY)
        return longest * (1 + self._random()) / 2

    def reconnectDelay(self, failedAttempts: int) -> float:
        """
        Seconds to wait before the next connection.

        @param failedAttempts: Not used: L{ClientService
            <twisted.application.internet.ClientService>} counts from 0 again with
            each connection, even if that one turns out to be useless.
        """
        self._connections += 1
        return self.delay(self._connections)

    def reset(self) -> None:
        """
        A connection has been of use: the next wait is the first again.
        """
        self._connections = 0
