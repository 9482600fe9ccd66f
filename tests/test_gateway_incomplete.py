"""
Tests for L{creditsync.gateway._catchup}: what people learn if the changes at the
platform can't be read.
"""

from tests.gateways import GatewayTestCase, operation
from tests.platforms import NOW

FILTER = "MngGetTradesByFilter"


class IncompleteTests(GatewayTestCase):
    """
    A platform whose look-ups by a filter always fail.
    """

    def incomplete(self) -> float:
        """
        For how long the journal may be incomplete, by the metrics.
        """
        seconds = self.gateway.gatewayFigures()["incomplete"]
        assert isinstance(seconds, float)
        return seconds

    def test_complete(self) -> None:
        """
        While they succeed, the journal is complete up to half a minute ago at most, on
        a platform where nothing happens too.
        """
        self.wait(3605)
        self.assertEqual((self.incomplete(), self.alarms), (5.0, []))
        self.assertEqual(self.gateway.gatewayOverview().completeUpTo, NOW + 3600)

    def test_refused(self) -> None:
        """
        People are told once, after five minutes, with what the platform says.
        """
        self.wait(60)
        self.platform.lacks.add(FILTER)
        self.wait(329)
        self.assertEqual((self.incomplete(), self.alarms), (329.0, []))
        self.wait(1000)
        self.assertEqual(
            self.alarms,
            [
                "the changes at the platform could not be read for 300 seconds:"
                " UNKNOWN_COMMAND, because; changes without an event are missed"
                " meanwhile"
            ],
        )

    def test_silent(self) -> None:
        """
        That no reply comes is as bad.
        """
        self.wait(60)
        self.link.losesReply += [FILTER] * 100
        self.wait(400)
        [alarm] = self.alarms
        self.assertIn("no reply in time", alarm)

    def test_again(self) -> None:
        """
        What was missed is read when they work again; the next time people are told
        again.
        """
        self.platform.lacks.add(FILTER)
        self.wait(400)
        self.platform.listeners.clear()
        self.platform.person(1001, 6, 100)
        self.platform.lacks.clear()
        self.wait(60)
        self.assertEqual([order for _, order, _, _ in self.events()], [5001])
        self.platform.lacks.add(FILTER)
        self.wait(400)
        self.assertEqual(len(self.alarms), 2)

    def test_away(self) -> None:
        """
        That the platform is away is told elsewhere; the journal is not complete then.
        """
        self.wait(60)
        self.link.cut()
        self.wait(1000)
        self.link.connect()
        self.assertEqual((self.incomplete(), self.alarms), (1000.0, []))
        self.wait(1)
        self.assertEqual(self.incomplete(), 1.0)

    def test_neverConnected(self) -> None:
        """
        After a restart it is complete up to the mark that is on disk, and no further.
        """
        self.wait(61)
        self.platform.person(1001, 6, 100)
        self.wait(30)
        self.kill()
        self.clock.advance(500)
        self.isAutomatic = False
        self.begin()
        self.assertEqual(self.incomplete(), 530.0)


class UnansweredTests(GatewayTestCase):
    """
    Operations whose reply and event are lost, and whose look-ups are refused.
    """

    lost = "CreditIn"

    def lose(self) -> None:
        """
        Have one booked, without the gateway's learning of it.
        """
        self.platform.listeners.clear()
        self.link.losesReply.append(self.lost)
        self.platform.lacks |= {FILTER, "GetTradeByOrder"}
        self.request(operation(key="k"))
        self.platform.work()

    def test_held(self) -> None:
        """
        After two minutes of that a person has to decide. A look-up that is answered
        then still settles it.
        """
        self.lose()
        self.wait(129)
        self.assertEqual((len(self.states()), self.alarms), (1, []))
        self.wait(11)
        self.assertEqual(
            self.alarms,
            [
                "operation 1 of account 1001 is held: the platform does not answer"
                " look-ups of it"
            ],
        )
        self.assertEqual(self.states(), ["held"])
        self.platform.lacks.clear()
        self.wait(31)
        self.platform.work()
        self.wait(31)
        self.assertEqual(self.states(), [])
        self.assertEqual(self.money(), [(5001, 1001, 300)])
        booked = self.log.withKey(7, "k")
        assert booked is not None
        self.assertEqual((booked.state.value, booked.order), ("booked", 5001))

    def test_away(self) -> None:
        """
        A platform that is away does not count: it may tell when it is there again.
        """
        self.lose()
        self.wait(60)
        self.link.cut()
        self.wait(600)
        self.link.connect()
        self.wait(60)
        self.link.cut()
        self.link.connect()
        self.wait(30)
        self.assertEqual(len(self.states()), 1)
        self.assertNotEqual(self.states(), ["held"])

    def test_answered(self) -> None:
        """
        Nor does an answer in between, that it is not there, say.
        """
        self.lose()
        self.wait(100)
        self.platform.lacks.clear()
        trades, self.platform.trades = self.platform.trades, {}
        self.wait(3)
        self.platform.lacks |= {FILTER, "GetTradeByOrder"}
        self.wait(90)
        self.assertNotEqual(self.states(), ["held"])
        self.platform.trades.update(trades)


class TwoPhaseUnansweredTests(UnansweredTests):
    """
    The same with finance requests.
    """

    way = "two-phase"
    lost = "MngCreateFinanceRequest"
