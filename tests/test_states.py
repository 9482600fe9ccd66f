"""
Tests that connections go from state to state as the tables in the docstring of
L{State} have it.
"""

import inspect
from collections.abc import Callable

from twisted.internet.testing import StringTransport

from creditsync._transport.states import State
from tests.test_protocol import Connection, RecordedTestCase


def table(heading: str) -> dict[str, list[str]]:
    """
    The rows of the table that has this column, by their first one.
    """
    lines = iter(inspect.cleandoc(State.__doc__ or "").splitlines())
    for line in lines:
        if line.split()[:1] == ["state"] and heading in line:
            break
    rows: dict[str, list[str]] = {}
    for line in lines:
        if not line:
            break
        state, *cells = line.split()
        rows[state] = cells
    return rows


def _keepPending(client: Connection) -> None:
    client.says(b"request\n")
    client.session.isIdle = False


def _finishing(client: Connection) -> None:
    _keepPending(client)
    client.protocol.finish()


def _halfClosed(client: Connection) -> None:
    _keepPending(client)
    client.saysNoMore()


def _allAnswered(client: Connection) -> None:
    client.session.isIdle = True
    client.session.send(b"reply")
    client.factory.flush()


def _goodbye(client: Connection) -> None:
    _finishing(client)
    _allAnswered(client)


def _closing(client: Connection) -> None:
    _halfClosed(client)
    _allAnswered(client)


# How a connection is brought into each state.
INTO: dict[str, Callable[[Connection], object]] = {
    "NEW": lambda client: None,
    "OPEN": _keepPending,
    "FINISHING": _finishing,
    "HALF_CLOSED": _halfClosed,
    "GOODBYE": _goodbye,
    "CLOSING": _closing,
    "CUT_OFF": lambda client: client.protocol.cutOff(),
    "LOST": lambda client: client.isGone(),
}

# In the order of the table.
EVENTS: dict[str, Callable[[Connection], object]] = {
    "data": lambda client: client.says(b"more\n"),
    "finish": lambda client: client.protocol.finish(),
    "client closes": lambda client: client.saysNoMore(),
    "all answered": _allAnswered,
    "cut off": lambda client: client.protocol.cutOff(),
    "lost": lambda client: client.isGone(),
}


class StateTests(RecordedTestCase):
    """
    Each state, by itself and after each event.
    """

    def into(self, state: str) -> Connection:
        """
        Bring a connection into a state.
        """
        client = self.connect()
        INTO[state](client)
        self.assertEqual(client.protocol._state.name, state)
        return client

    def test_transitions(self) -> None:
        """
        Each event leads from each state to the one of the table.
        """
        rows = table("all answered")
        self.assertEqual(list(rows), [state.name for state in State])
        for state, cells in rows.items():
            for (event, happens), cell in zip(EVENTS.items(), cells, strict=True):
                client = self.into(state)
                happens(client)
                after = client.protocol._state.name
                expected = state if cell == "-" else cell
                self.assertEqual(after, expected, f"{event} in {state}")

    def test_meanings(self) -> None:
        """
        Each state takes input, sends output and has told its transport as the
        table has it.
        """
        rows = table("the transport was told")
        self.assertEqual(list(rows), [state.name for state in State])
        for state, (takesInput, takesOutput, told) in rows.items():
            client = self.into(state)
            wire = client.wire
            # StringTransport has a name of its own for each.
            self.assertEqual(wire.halfClosed, told == "loseWriteConnection", state)
            self.assertEqual(wire.disconnected, told == "abortConnection", state)
            isClosing = wire.disconnecting and not wire.disconnected
            self.assertEqual(isClosing, told == "loseConnection", state)
            client.session.lines.clear()
            client.hears()
            client.says(b"line\n")
            handled = client.session.lines == [b"line"]
            self.assertEqual(handled, takesInput == "yes", state)
            client.session.send(b"event")
            client.factory.flush()
            self.assertEqual(client.hears(), b"event" * (takesOutput == "yes"), state)
            self.assertEqual(client.protocol.unread, 0, f"dropped in {state}")

    def test_noHalfClose(self) -> None:
        """
        A transport that can't close one direction is closed as a whole, and is
        read until it is.
        """
        client = self.connect(StringTransport(lenient=True))
        client.protocol.finish()
        self.clock.advance(0)
        self.assertIs(client.protocol._state, State.CLOSING)
        self.assertEqual(client.wire.producerState, "producing")
