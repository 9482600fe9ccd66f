"""
Clients that follow the journal: each keeps the place of the last event that it got,
and goes on behind it on its next connection, whatever happened in between.
"""

from collections.abc import Sequence

from tests.simulation.asking import Market
from tests.simulation.clients import Client
from tests.simulation.history import Intent, Moment, Reply, Talk, Token, parse
from tests.simulation.network import Link
from tests.simulation.setting import Setting
from tests.simulation.site import Site
from tests.simulation.world import Violation, World


class Reader(Client):
    """
    One client that has to get every event behind the place at which it began, once
    and in order; if it has several tokens, those that its token may see.

    @ivar isFollowing: Whether its connection has the reply to its C{Subscribe}: the
        events before that don't count.
    """

    def __init__(
        self,
        number: int,
        world: World,
        site: Site,
        market: Market,
        setting: Setting,
        tokens: Sequence[Token],
    ) -> None:
        super().__init__(number, world, site, market, setting, tokens, tokens[0])
        self._left = 0
        self.isFollowing = False
        # The place of the last event that it got, and of the last one that there was.
        self._since = self._random.choice(("first", None))
        self._head = 0
        # Its last request, until that is answered.
        self._asked: Intent | None = None

    def _act(self) -> None:
        if self.isFinishing:
            return
        pause = self._random.expovariate(1.0) * self._setting.pace * 5
        self._world.later(pause, self._act)
        if self._link is None:
            self._connect()
        elif self.isFollowing and self._random.random() < 0.1:
            self._resume()
        elif self._isRestricted and self._chance("token-changed", 0.1):
            self._changeToken()
            self._send([self._market.health(self.token)])

    @property
    def talk(self) -> Talk:
        """
        Its last connection.
        """
        assert self._talk is not None
        return self._talk

    @property
    def _isRestricted(self) -> bool:
        """
        Whether there are events that it may not get.
        """
        return len(self.tokens) > 1

    def finish(self) -> None:
        """
        Follow to the end.
        """
        self.isFinishing = True
        if self._link is not None:
            # What it gets now may end the connection.
            self._link.resume()
        if self._link is None:
            self._connect()
        elif self._asked is None and not self.isFollowing:
            self._resume()

    def _connect(self) -> None:
        super()._connect()
        if self._link is not None:
            self._resume()

    def _resume(self) -> None:
        """
        Go on behind the last event, or begin.
        """
        self.isFollowing = False
        if self._since is None and self._random.random() < 0.5:
            # The place in its reply will do as well.
            self._asked = self._market.health(self.token)
        else:
            self._asked = self._market.resume(self.token, self._since)
        self._send([self._asked])

    def received(self, data: bytes, written: Moment) -> None:
        """
        See L{tests.simulation.network.Peer}.
        """
        isInPage = self.isFollowing and self._place < self._head
        if isInPage and self._chance("dropped-in-page", 0.1):
            self._world.happens("dropped-in-page")
            super().received(data[: self._random.randrange(len(data))], written)
            self._leave()
        else:
            super().received(data, written)

    def _hear(self, line: bytes, written: Moment) -> None:
        super()._hear(line, written)
        if line.startswith(b'{"event":') and self.isFollowing:
            self._follow(parse(line.decode())["data"].get("cursor"))

    @property
    def _place(self) -> int:
        return _placeOf(self._since)

    def _follow(self, cursor: str | None) -> None:
        step = 0 if cursor is None else _placeOf(cursor) - self._place
        # Which events it may not get is judged in the end.
        if step < 1 or (step > 1 and not self._isRestricted):
            self._blame(f"the event at {cursor} comes after place {self._place}")
        self._since = cursor

    def _answered(self, extID: str, reply: Reply) -> None:
        super()._answered(extID, reply)
        asked = self._asked
        if asked is None or asked.attempts[-1].reply is not reply:
            return
        self._asked = None
        if reply.status == 410:
            self._blame(f"the place {self._since} is gone")
        if reply.status != 200:
            return
        cursor = reply.value["data"]["cursor"]
        self._since = self._since or cursor
        self._head = _placeOf(cursor)
        if asked.command == "HealthCheck":
            self._resume()
        else:
            self.isFollowing = True

    def _blame(self, message: str) -> None:
        about = self.name if self._talk is None else self._talk.name
        self._world.blame("no-seam", f"{self.name}: {message}", about)

    def lost(self, link: Link) -> None:
        """
        See L{tests.simulation.network.Peer}.
        """
        if link is self._link:
            self.isFollowing = False
            self._asked = None
        super().lost(link)

    def check(self, head: int) -> None:
        """
        Check that it has all events, if it may see them all.
        """
        if self._place != head and not self._isRestricted:
            raise Violation(
                "no-seam",
                f"{self.name} has got the events up to {self._place} of {head}",
                (self.name,),
            )


def _placeOf(cursor: str | None) -> int:
    """
    The place in a cursor: no epoch is checked here.
    """
    return 0 if cursor in (None, "first") else int(cursor.partition("-")[2])
