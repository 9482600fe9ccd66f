"""
Tests for L{creditsync.gateway._listening}: events that stop while the connection lives.
"""

from tests.gateways import GatewayTestCase, operation
from tests.platforms import Link


class ListeningTests(GatewayTestCase):
    """
    A platform that answers every request.
    """

    def setUp(self) -> None:
        """
        Let the gateway be connected for some time.
        """
        super().setUp()
        self.renewed: list[float] = []
        self.helps = True
        renew = Link.renew

        def renewing(link: Link, why: str) -> None:
            self.renewed.append(self.clock.seconds())
            if self.helps:
                self.platform.listeners.append(link._broadcast)
            renew(link, why)

        self.patch(Link, "renew", renewing)
        self.wait(95)

    def figures(self) -> tuple[int, int]:
        """
        Events that were missed, and connections that were made for that.
        """
        figures = self.gateway.gatewayFigures()
        return figures["missed"], figures["renewals"]

    def deafen(self) -> None:
        """
        Let the platform send no events from now on.
        """
        self.platform.listeners.clear()

    def test_sound(self) -> None:
        """
        While events come, nothing is missed.
        """
        for _ in range(10):
            self.platform.person(1001, 6, 1)
            self.request(operation(login=1002))
            self.platform.work()
            self.wait(30)
        self.assertEqual((self.figures(), self.renewed), ((0, 0), []))

    def test_people(self) -> None:
        """
        After two readings that show changes of people, and no event, the gateway
        connects again, and then events come.
        """
        self.deafen()
        for _ in range(4):
            self.platform.person(1001, 6, 1)
            self.wait(30)
        self.assertEqual((self.renewed, self.figures()[1]), ([180], 1))
        self.assertEqual([each[1] for each in self.events()], [5001, 5002, 5003, 5004])
        self.wait(1000)
        self.assertEqual((len(self.renewed), self.alarms), (1, []))

    def test_ownOperations(self) -> None:
        """
        So it does if only its own operations are booked there.
        """
        self.deafen()
        for _ in range(3):
            self.request(operation())
            self.platform.work()
            self.wait(30)
        self.assertEqual((self.renewed, self.figures()), ([150], (2, 1)))

    def test_oneIsLost(self) -> None:
        """
        An event that is lost between others is counted, and no more.
        """
        for _ in range(5):
            listeners = list(self.platform.listeners)
            self.deafen()
            self.platform.person(1001, 6, 1)
            self.platform.listeners += listeners
            self.wait(10)
            self.platform.person(1002, 6, 1)
            self.wait(20)
        self.wait(60)
        self.assertEqual((self.figures(), self.renewed), ((5, 0), []))

    def test_late(self) -> None:
        """
        An event that comes soon after the look-up is not missed.
        """
        self.request(operation())
        self.link.isAutomatic = False
        self.platform.work()
        self.link.isAutomatic = True
        self.wait(4)
        self.assertEqual(self.states(), [])
        self.link.deliverEvent()
        self.wait(60)
        self.assertEqual(self.figures(), (0, 0))

    def test_never(self) -> None:
        """
        If a new connection does not help, that is an alarm, once, and the next one is
        made later each time.
        """
        self.helps = False
        self.deafen()
        for _ in range(60):
            self.platform.person(1001, 6, 1)
            self.wait(30)
        self.assertEqual(self.renewed, [180, 390, 720, 1290])
        [alarm] = self.alarms
        self.assertIn("sends no events, even on a new connection", alarm)

    def test_beforeTheConnection(self) -> None:
        """
        Of what was changed before the connection there is no event.
        """
        for _ in range(4):
            self.link.cut()
            self.platform.person(1001, 6, 1)
            self.wait(100)
            self.link.connect()
            self.wait(100)
        self.assertEqual((self.figures(), self.renewed), ((0, 0), []))
