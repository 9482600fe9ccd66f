"""
The clients: what they do, and what they record.

A client connects, sends requests, waits, disconnects, comes back and repeats
the requests without a reply under the same key. It misbehaves as its seed
allows.
"""

from collections.abc import Sequence

from tests.simulation.asking import Market, lineOf
from tests.simulation.history import (
    Attempt,
    Intent,
    Moment,
    Reply,
    Talk,
    Token,
    parse,
)
from tests.simulation.network import Link
from tests.simulation.setting import Setting
from tests.simulation.site import Site
from tests.simulation.world import World

# Refusals that are sent as soon as a line is read, even while another request
# of the same extID is pending.
_AT_ONCE = ("DUPLICATE_EXTID", "UNAUTHORIZED", "SHUTDOWN")
# After these the outcome is known; after others a request may be repeated.
_FINAL = (200, 400, 403, 404, 409, 422)


class Client:
    """
    One client, which has one connection at a time.

    @ivar main: The token that it has at first.
    @ivar token: The one that it has now.
    @ivar tokens: Those between which it changes.
    @ivar other: Another token, which some of its requests have: in one connection
        the principal may change from line to line.
    @ivar isFinishing: Whether it starts nothing new.
    """

    def __init__(
        self,
        number: int,
        world: World,
        site: Site,
        market: Market,
        setting: Setting,
        tokens: Sequence[Token],
        other: Token,
    ) -> None:
        self.name = f"c{number}"
        self.number = number
        self.tokens = tokens
        self.token = self.main = tokens[0]
        self.other = other
        self._world = world
        self._random = world.generator()
        self._site = site
        self._market = market
        self._setting = setting
        self._left = setting.requests // setting.clients
        self._link: Link | None = None
        self._talk: Talk | None = None
        self._talks = 0
        self._extIDs = 0
        self._sent = 0
        self._position = 0
        self._partial = b""
        self._waiting: dict[str, list[Attempt]] = {}
        self._settled: list[Intent] = []
        # Requests with a key whose outcome it does not know.
        self._open: dict[Intent, None] = {}
        self.isFinishing = False
        world.later(self._random.random(), self._act)

    @property
    def isDone(self) -> bool:
        """
        Whether it has sent all requests that it was to send.
        """
        return self._left <= 0

    @property
    def unsettled(self) -> list[Intent]:
        """
        Requests that it has to repeat until it knows their outcome.
        """
        return [intent for intent in self._open if not intent.token.isLimited]

    def _chance(self, fault: str, chance: float) -> bool:
        return self._world.mayHappen(fault) and self._random.random() < chance

    # What it does.

    def _act(self) -> None:
        if self.isFinishing or self.isDone:
            return
        self._world.later(self._random.expovariate(1.0) * self._setting.pace, self._act)
        # One that will not be valid for long is kept until it is not, and beyond.
        if self._chance("token-changed", 0.05 if self.token.isLimited else 0.15):
            self._changeToken()
        if self._link is None or self._talk is None:
            self._connect()
        elif self._chance("unfinished-line", 0.01):
            self._world.happens("unfinished-line")
            self._talk.isUnfinished = True
            self._write(b'{"command":')
        elif self._chance("half-close", 0.01):
            self._world.happens("half-close")
            self._link.end()
            self._talk.halfClosed = True
        else:
            self._ask()

    def _changeToken(self) -> None:
        """
        Go on with another token from the next line on, and with the first one most of
        the time.
        """
        token = self._random.choice((self.main, *self.tokens))
        if token is not self.token:
            self._world.happens("token-changed")
            self.token = token

    def finish(self) -> None:
        """
        Repeat all requests that are not settled, until they are.
        """
        self.isFinishing = True
        if self.main.isLimited:
            # It may never be let in again, and there may be no free
            # connection.
            if self._link is not None:
                self._leave()
            return
        again = [each for each in self.unsettled if not self._isWaitedFor(each)]
        if self._link is not None:
            self._link.resume()
        # There may not be enough connections for all at once.
        isUseless = self._isMuted or (not again and not self.unsettled)
        if self._link is not None and isUseless and self._random.random() < 0.5:
            self._leave()
        elif self._link is None and again:
            self._connect()
        if self._link is not None and not self._isMuted:
            few = min(self._setting.limits.maxPendingPerSession, 4)
            self._send(self._random.sample(again, min(few, len(again))))

    @property
    def _isMuted(self) -> bool:
        """
        Whether it can't send anything on this connection any more.
        """
        talk = self._talk
        return talk is None or talk.halfClosed or talk.isUnfinished

    def _connect(self) -> None:
        self._talks += 1
        name = f"{self.name}.{self._talks}"
        talk = Talk(name, self._site.generation.number, self._world.now, self.token)
        link = self._site.connect(talk)
        if link is None:
            return
        link.peer = self
        self._link, self._talk = link, talk
        self._sent = self._position = 0
        self._partial = b""
        if self._chance("retry", 0.8):
            again = list(self._open)[:4]
            if again:
                self._world.happens("retry")
                self._send(again)

    def _ask(self) -> None:
        random, setting = self._random, self._setting
        if self._isMuted:
            return
        count = 1
        if random.random() < 0.3:
            count = random.randint(2, 6)
        if self._chance("burst", 0.02):
            self._world.happens("burst")
            count = 30
        if self._market.hasRequests and self._chance("decided-together", 0.1):
            self._world.happens("decided-together")
            tokens = self.token, self.other
            intents = self._market.decidedTogether(tokens)
        elif random.random() < 0.15:
            intents = self._chooseTogether()
        else:
            intents = [self._choose() for _ in range(min(count, self._left))]
        self._left -= len(intents)
        if self._chance("too-long", 0.005):
            self._world.happens("too-long")
            limit = setting.limits.maxLineLength
            intents.append(self._market.tooLong(self.token, limit))
        self._send(intents)

    def _choose(self) -> Intent:
        market, random, token = self._market, self._random, self.token
        if self._chance("wrong", 0.08):
            self._world.happens("wrong")
            return market.wrong(token)
        known = self._settled
        # These include pending ones, to which the request then attaches.
        latest = known[-20:] + list(self._open)[-20:]
        if latest and self._chance("retry", 0.08):
            self._world.happens("retry")
            return random.choice(latest)
        if known and self._chance("other-content", 0.03):
            self._world.happens("other-content")
            first = random.choice(known)
            return market.booking(first.token, key=first.key)
        if self._chance("other-place", 0.02):
            self._world.happens("other-place")
            return market.resumeElsewhere(token)
        return market.ask(token)

    def _chooseTogether(self) -> list[Intent]:
        """
        Requests that the server may read together, but for one among them.
        """
        market, random = self._market, self._random
        tokens = (self.token, self.token, self.token, self.other)
        count = min(random.randint(2, 9), self._left)
        intents = [market.plain(random.choice(tokens)) for _ in range(count)]
        at, drawn = random.randrange(count + 1), random.random()
        if drawn < 0.2 and self._chance("wrong", 1.0):
            self._world.happens("wrong")
            intents[at:at] = market.split(self.token)
        elif drawn < 0.7:
            intents[at:at] = [self._choose()]
        return intents

    def _send(self, intents: Sequence[Intent]) -> None:
        """
        Send requests, all in one piece.
        """
        lines = []
        for intent in intents:
            lines.append(self._line(intent))
            if intent.cmd and self._chance("duplicate-extid", 0.02):
                self._world.happens("duplicate-extid")
                self._extIDs -= 1
                # Of the same token: so it is known which of them is refused at once.
                token = intent.attempts[-1].token
                lines.append(self._line(self._market.booking(token)))
        if lines:
            self._write(b"".join(lines))

    def _line(self, intent: Intent) -> bytes:
        assert self._talk is not None and self._link is not None
        extID, token = self._extIDOf(intent), self._tokenFor(intent)
        lineEnd = self._random.choice((b"\r\n", b"\r\n", b"\n"))
        line = lineOf(intent, extID, token) + lineEnd
        world = self._world
        moment = world.now, world.turn
        end = self._sent + len(line)
        if "LINE_TOO_LONG" in intent.allowed:
            # It is refused as soon as it is clear that it is too long.
            end = self._sent + self._setting.limits.maxLineLength + 2
        attempt = Attempt(intent, self._talk, token, extID, end, moment)
        self._sent += len(line)
        intent.attempts.append(attempt)
        self._talk.attempts.append(attempt)
        self._waiting.setdefault(extID, []).append(attempt)
        if intent.key is not None and intent.isFinance:
            self._open[intent] = None
        return line

    def _tokenFor(self, intent: Intent) -> Token:
        """
        The token of a request: when it is repeated perhaps another one of the same
        principal and role.
        """
        token = intent.token
        if not intent.attempts or not self._chance("token-changed", 0.3):
            return token
        alike = [
            each
            for each in self.tokens
            if (each.principal, each.role) == (token.principal, token.role)
        ]
        return self._random.choice(alike or [token])

    def _extIDOf(self, intent: Intent) -> str:
        """
        An extID as its JSON text; none for requests that are answered without
        one.
        """
        if intent.line is not None and (
            "<extID>" not in intent.line or "LINE_TOO_LONG" in intent.allowed
        ):
            return ""
        self._extIDs += 1
        number, kind = self._extIDs * 10 + self.number, self._extIDs % 7
        if kind == 3:
            return str(number)
        if kind == 5:
            return f"{number}.0"
        return f'"{self.name}-{number}"'

    def _write(self, data: bytes) -> None:
        assert self._link is not None and self._talk is not None
        self._world.note(self._talk.name, "sends", data)
        self._link.send(data)

    # What befalls it.

    def stall(self, seconds: float) -> None:
        """
        Read nothing for a while.
        """
        if self._link is not None:
            self._world.happens("stall")
            self._world.note(self._link.talk.name, "reads nothing")
            self._link.stall()
            self._world.later(seconds, self._link.resume)

    def drop(self) -> None:
        """
        Disconnect without notice.
        """
        if self._link is not None:
            self._world.happens("dropped-by-client")
            self._leave()

    def _leave(self) -> None:
        assert self._link is not None
        self._world.note(self._link.talk.name, "leaves")
        self._link.talk.lostAt = min(self._link.talk.lostAt, self._world.now)
        self._link.leave()
        self.lost(self._link)

    def breakLink(self) -> None:
        """
        Lose the connection somewhere in the network.
        """
        if self._link is not None:
            self._world.happens("dropped-by-net")
            self._world.note(self._link.talk.name, "breaks")
            self._link.break_()

    # What it hears.

    def received(self, data: bytes, written: Moment) -> None:
        """
        See L{tests.simulation.network.Peer}.
        """
        *lines, self._partial = (self._partial + data).split(b"\r\n")
        for line in lines:
            self._hear(line, written)
            self._position += 1

    def _hear(self, line: bytes, written: Moment) -> None:
        talk = self._talk
        assert talk is not None
        if line.startswith(b'{"event":'):
            talk.events.append((line, self._position, written))
            self._market.heard(line)
            return
        try:
            value = parse(line.decode("ascii"))
            reply = Reply(value["status"], line, value, self._position, written)
        except (ValueError, KeyError, TypeError):
            self._world.blame("wire", f"no reply of ours: {line!r}", talk.name)
            return
        extID = ""
        if line.startswith(b'{"extID":'):
            extID = line[9 : line.index(b',"status":')].decode()
        self._answered(extID, reply)

    def _answered(self, extID: str, reply: Reply) -> None:
        attempt = self._attemptOf(self._waiting.get(extID, []), reply)
        if attempt is None:
            assert self._talk is not None
            self._world.blame(
                "one-reply",
                f"a reply under the extID {extID or 'none'} that nobody waits for:"
                f" {reply.raw!r}",
                extID or self._talk.name,
            )
            return
        attempt.reply = reply
        intent = attempt.intent
        isFinal = reply.status in _FINAL and reply.error != "DUPLICATE_EXTID"
        if isFinal and intent in self._open:
            del self._open[intent]
            if reply.status == 200:
                self._settled.append(intent)
        if isinstance(reply.value.get("data"), dict):
            self._market.learn(reply.value["data"])
        if reply.status == 200 and (intent.isRequest or intent.approves is not None):
            self._world.happens("four-eyes")

    def _attemptOf(self, waiting: list[Attempt], reply: Reply) -> Attempt | None:
        """
        Find the attempt that a reply answers, and remove it from those under
        its extID.
        """
        delivered = [
            each
            for each in waiting
            if each.delivered is not None and each.delivered <= reply.written
        ]
        if not delivered:
            return None
        isNewest = reply.error in _AT_ONCE and delivered[0].extID
        found = delivered[-1 if isNewest else 0]
        waiting.remove(found)
        return found

    def _isWaitedFor(self, intent: Intent) -> bool:
        return any(
            attempt.intent is intent
            for attempts in self._waiting.values()
            for attempt in attempts
        )

    def ended(self, link: Link) -> None:
        """
        See L{tests.simulation.network.Peer}.
        """
        link.leave()
        self.lost(link)

    def lost(self, link: Link) -> None:
        """
        See L{tests.simulation.network.Peer}.
        """
        if link is self._link:
            self._link = None
            self._waiting.clear()
