"""
Tests for L{creditsync.gateway._runtime} and L{creditsync.gateway._operations}.
"""

from twisted.internet.defer import CancelledError, Deferred, fail
from zope.interface.verify import verifyObject

from creditsync.errors import (
    Busy,
    IdempotencyKeyReused,
    IncorrectOrder,
    NotFound,
    OutcomeUnknown,
    ShuttingDown,
)
from creditsync.gateway._interfaces import IUpstream, IUpstreamObserver
from creditsync.interfaces import (
    IAccountGroups,
    IHeldOperations,
    IJournal,
    ILookups,
    IOperations,
    ITradingRuntime,
)
from tests.gateways import ONE, GatewayTestCase, deletion, operation
from tests.platforms import NOW

ADD, UPDATE, DELETE = 0, 1, 2
BOOKED, DELETED = 3, 6


class BookingTests(GatewayTestCase):
    """
    New trades, when nothing goes wrong or something does.
    """

    def test_interfaces(self) -> None:
        """
        It provides its interfaces.
        """
        for each in (
            *(ITradingRuntime, IJournal, ILookups, IOperations),
            *(IHeldOperations, IAccountGroups),
        ):
            verifyObject(each, self.gateway)
        verifyObject(IUpstreamObserver, self.gateway)
        verifyObject(IUpstream, self.link)

    def test_booked(self) -> None:
        """
        The caller gets the reservation when the platform has accepted the operation,
        and the event when its booking is durable here.
        """
        asked = operation()
        reservation = self.successResultOf(self.request(asked))
        self.assertEqual(
            (reservation.order, reservation.type, reservation.trade.profit),
            (5001, ADD, 300 * ONE),
        )
        self.assertEqual((self.events(), self.states()), ([], ["accepted"]))
        durable = reservation.whenDurable()
        self.platform.work()
        self.assertNoResult(durable)
        self.turn()
        self.successResultOf(durable)
        [event] = self.published
        self.assertIs(event.operation, asked)
        self.assertEqual(event.place, 1)
        self.assertEqual(self.events(), [(ADD, 5001, BOOKED, 300)])
        self.assertEqual(self.states(), [])
        self.assertEqual(self.log.ledger.trade(5001).profit, 300 * ONE)

    def test_whatIsSent(self) -> None:
        """
        The platform gets the operation, with the second in which it is sent, as both
        times: its own clock may be behind.
        """
        self.request(operation(comment="Easter"))
        self.assertEqual(
            self.platform.heard[-1],
            (
                "CreditIn",
                {
                    "login": 1001,
                    "amount": 300,
                    "comment": "Easter",
                    "open_time": NOW,
                    "close_time": NOW,
                },
            ),
        )

    def test_durableBeforeSent(self) -> None:
        """
        Nothing is sent before it is durable that it may be sent.
        """
        self.log.isHeld = True
        self.request(operation())
        self.assertEqual([each.command for each in self.link.sent[1:]], [])
        self.log.release()
        self.turn()
        self.assertEqual([each.command for each in self.link.sent[1:]], ["CreditIn"])

    def test_durableBeforePublished(self) -> None:
        """
        Nothing is published, or acknowledged, before it is durable.
        """
        reservation = self.successResultOf(self.request(operation()))
        durable = reservation.whenDurable()
        self.log.isHeld = True
        self.platform.work()
        self.turn()
        self.assertNoResult(durable)
        self.assertEqual(self.events(), [])
        self.log.release()
        self.turn()
        self.successResultOf(durable)
        self.assertEqual(self.events(), [(ADD, 5001, BOOKED, 300)])

    def test_refused(self) -> None:
        """
        A definite no of the platform is the reply, and frees the key.
        """
        self.platform.refusals[1001] = 409, "TRADE_NO_MONEY"
        why = self.refusalOf(self.request(operation(key="k")))
        self.assertEqual((why.status, why.error), (409, "TRADE_NO_MONEY"))
        self.assertEqual(why.message, "the platform: because")
        self.successResultOf(self.request(operation(key="k")))
        self.platform.work()
        self.assertEqual(self.money(), [(5001, 1001, 300)])

    def test_unknownReply(self) -> None:
        """
        A reply that proves nothing leaves the outcome open, until a look-up finds it.
        """
        self.platform.refusals[1001] = 500, "TECH_PROBLEM"
        reserved = self.request(operation())
        self.assertNoResult(reserved)
        self.assertEqual(self.states(), ["unseen"])

    def test_platformAway(self) -> None:
        """
        Without a connection nothing is sent, and clients get to know that.
        """
        self.link.cut()
        why = self.refusalOf(self.request(operation(key="k")))
        self.assertIsInstance(why, Busy)
        self.assertEqual(why.data, {"retry_after_ms": 250})
        self.assertEqual(self.log.unfinished(), [])

    def test_notDurable(self) -> None:
        """
        While nothing becomes durable nothing is sent, and clients get to know that.
        What was booked before is answered, and nothing is said of other keys.
        """
        self.request(operation(key="old"))
        self.platform.work()
        self.turn()
        self.log.problem = "PostgreSQL can't be reached"
        self.assertEqual(self.gateway.problem, "PostgreSQL can't be reached")
        why = self.refusalOf(self.request(operation(key="k")))
        self.assertIsInstance(why, Busy)
        self.assertIn("PostgreSQL can't be reached", why.message)
        self.assertEqual(why.data, {"retry_after_ms": 250})
        self.assertTrue(self.successResultOf(self.request(operation(key="old"))))
        self.assertEqual(self.successResultOf(self.gateway.orderOf(7, "old")), 5001)
        self.failureResultOf(self.gateway.orderOf(7, "k"), Busy)
        self.failureResultOf(self.gateway.operation(7, "k"), Busy)
        self.log.problem = None
        self.assertIsNone(self.successResultOf(self.gateway.operation(7, "k")))
        self.assertEqual(self.money(), [(5001, 1001, 300)])

    def test_lostBeforeSent(self) -> None:
        """
        If the connection is lost while the intent becomes durable, nothing is sent.
        """
        reserved = self.gateway.submit(operation(key="k"))
        assert isinstance(reserved, Deferred)
        self.link.cut()
        self.turn()
        self.assertIsInstance(self.refusalOf(reserved), Busy)
        self.assertEqual(self.log.unfinished(), [])
        self.link.connect()
        self.turn()
        self.assertEqual(self.platform.trades, {})

    def test_lostReply(self) -> None:
        """
        An operation whose reply is lost is looked for by its content, and never sent
        again.
        """
        self.link.losesReply.append("CreditIn")
        reserved = self.request(operation())
        self.assertNoResult(reserved)
        self.wait(10)
        self.assertEqual(self.successResultOf(reserved).order, 5001)
        self.platform.work()
        self.turn()
        self.assertEqual(self.events(), [(ADD, 5001, BOOKED, 300)])
        self.assertEqual(self.money(), [(5001, 1001, 300)])

    def test_lostReplyOfBooked(self) -> None:
        """
        One that is found booked is booked.
        """
        self.link.losesReply.append("CreditIn")
        reserved = self.request(operation())
        self.platform.work()
        self.wait(10)
        reservation = self.successResultOf(reserved)
        self.assertEqual((reservation.order, reservation.isReplay), (5001, False))
        self.assertEqual(self.events(), [(ADD, 5001, BOOKED, 300)])

    def test_lostRequest(self) -> None:
        """
        An operation that the platform never got is held after the quiet time, with an
        alarm, and was sent once.
        """
        self.link.losesRequest.append("CreditIn")
        self.request(operation(key="k"))
        self.wait(119)
        self.assertEqual(self.states(), ["unseen"])
        self.wait(32)
        self.assertEqual(self.states(), ["held"])
        self.assertEqual(len(self.alarms), 1)
        self.assertIn("operation 1 of account 1001 is held", self.alarms[0])
        commands = [each.command for each in self.link.sent]
        self.assertEqual(commands.count("CreditIn"), 1)

    def test_figures(self) -> None:
        """
        The metrics have what is unsettled, what is held and what went amiss.
        """
        self.link.losesRequest.append("CreditIn")
        self.request(operation())
        self.wait(40)
        figures = self.gateway.gatewayFigures()
        self.assertEqual(sum(figures.pop("took").counts), 0)
        self.assertEqual(
            figures,
            {
                "connected": 1,
                "unsettled": 1,
                "oldest": 40,
                "held": 0,
                "alarms": 0,
                "incomplete": 10,
                "lost": 1,
                "late": 0,
                "doubled": 0,
                "overtaking": 0,
                "missed": 0,
                "renewals": 0,
            },
        )
        self.wait(120)
        self.link.cut()
        figures = self.gateway.gatewayFigures()
        self.assertEqual(
            [figures[name] for name in ("connected", "unsettled", "held", "alarms")],
            [0, 0, 1, 1],
        )

    def test_lateRequest(self) -> None:
        """
        One that the platform gets after it was held is booked after all.
        """
        self.link.losesRequest.append("CreditIn")
        self.request(operation())
        self.wait(160)
        self.assertEqual(self.states(), ["held"])
        self.platform.carryOut(self.link.sent[1].command, self.link.sent[1].data)
        self.platform.work()
        self.turn()
        self.assertEqual(self.states(), [])
        self.assertEqual(self.events(), [(ADD, 5001, BOOKED, 300)])

    def test_lateReply(self) -> None:
        """
        A reply that comes late names the order all the same.
        """
        self.platform.showsQueued = False
        self.link.isAutomatic = False
        reserved = self.request(operation())
        self.link.deliverRequest()
        self.link.isAutomatic = True
        self.wait(10)
        self.assertEqual(self.states(), ["unseen"])
        self.link.deliverReply()
        self.turn()
        self.assertEqual(self.successResultOf(reserved).order, 5001)
        self.assertEqual(self.states(), ["accepted"])

    def test_lateRefusal(self) -> None:
        """
        A definite no that comes late is one.
        """
        self.platform.refusals[1001] = 403, "FORBIDDEN"
        self.link.isAutomatic = False
        reserved = self.request(operation())
        self.link.deliverRequest()
        self.link.isAutomatic = True
        self.wait(10)
        self.link.deliverReply()
        self.turn()
        self.assertEqual(self.refusalOf(reserved).status, 403)
        self.assertEqual(self.states(), [])

    def test_refusedAndShown(self) -> None:
        """
        If the platform has refused what it shows, a person has to decide.
        """
        self.link.isAutomatic = False
        self.request(operation())
        self.link.deliverRequest()
        self.link.isAutomatic = True
        self.wait(11)
        self.assertEqual(self.states(), ["accepted"])
        sent, _ = self.link.replies[0]
        self.link.replies[0] = sent, {"status": 409, "error": "TRADE_NO_MONEY"}
        self.link.deliverReply()
        self.turn()
        self.assertEqual(self.states(), ["held"])
        self.assertIn("refused it, and shows it as order 5001", self.alarms[0])

    def test_lateReplyOfAnother(self) -> None:
        """
        A late reply that names another order than the one that was found is an alarm.
        """
        self.link.isAutomatic = False
        self.request(operation())
        self.link.deliverRequest()
        self.link.isAutomatic = True
        self.platform.work()
        self.wait(11)
        self.assertEqual(self.states(), [])
        sent, _ = self.link.replies[0]
        self.link.replies[0] = sent, {"status": 200, "data": {"order": 6001}}
        self.link.deliverReply()
        self.turn()
        self.assertIn("names order 6001 for operation 1", self.alarms[0])

    def test_eventBeforeReply(self) -> None:
        """
        An event that overtakes the reply is kept until the reply names its order.
        """
        self.link.isAutomatic = False
        reserved = self.request(operation())
        self.link.deliverRequest()
        self.platform.work()
        self.link.deliverEvent()
        self.turn()
        self.assertEqual(self.events(), [])
        self.link.deliverReply()
        self.assertEqual(self.successResultOf(reserved).isReplay, False)
        self.turn()
        self.assertEqual(self.events(), [(ADD, 5001, BOOKED, 300)])

    def test_eventBeforeReplyOfAnother(self) -> None:
        """
        An event that was kept and turns out to be another's is published then.
        """
        self.link.isAutomatic = False
        reserved = self.request(operation())
        self.link.deliverRequest()
        self.platform.person(1001, 6, 50)
        self.link.deliverEvent()
        self.turn()
        self.assertEqual(self.events(), [])
        self.link.deliverReply()
        self.turn()
        self.assertEqual(self.successResultOf(reserved).order, 5001)
        self.assertEqual(self.events(), [(ADD, 5002, BOOKED, 50)])

    def test_eventWithoutReply(self) -> None:
        """
        If the reply does not come, a look-up tells whose the kept event is.
        """
        self.link.losesReply.append("CreditIn")
        reserved = self.request(operation())
        self.platform.work()
        self.turn()
        self.assertEqual(self.events(), [])
        self.wait(10)
        self.assertEqual(self.successResultOf(reserved).order, 5001)
        self.assertEqual(self.events(), [(ADD, 5001, BOOKED, 300)])

    def test_lostEvent(self) -> None:
        """
        If no event comes, a look-up does.
        """
        self.request(operation())
        self.link.isAutomatic = False
        self.platform.work()
        self.link.events.clear()
        self.link.isAutomatic = True
        self.wait(2)
        self.assertEqual(self.events(), [(ADD, 5001, BOOKED, 300)])

    def test_eventTwice(self) -> None:
        """
        An event that comes twice is published once.
        """
        self.request(operation())
        self.link.isAutomatic = False
        self.platform.work()
        self.link.deliverEvent(isLast=False)
        self.turn()
        self.link.deliverEvent()
        self.turn()
        self.assertEqual(self.events(), [(ADD, 5001, BOOKED, 300)])

    def test_anyType(self) -> None:
        """
        The type of the platform's event does not matter, only that the record is
        final.
        """
        reservation = self.successResultOf(self.request(operation()))
        record = {**self.platform.trades[5001], "timestamp": NOW}
        self.gateway.eventReceived(0, record)
        self.turn()
        self.assertEqual(self.events(), [])
        self.gateway.eventReceived(1, {**record, "state": 3})
        self.turn()
        self.assertEqual(self.events(), [(ADD, 5001, BOOKED, 300)])
        self.assertEqual(reservation.type, ADD)

    def test_uniqueContent(self) -> None:
        """
        Two operations that are alike differ in their second, so that one that is lost
        is not taken for the other. None has a second that is to come, which a platform
        may refuse.
        """
        self.request(operation())
        self.platform.work()
        self.turn()
        self.request(operation())
        times = [
            data["open_time"] for name, data in self.platform.heard if "In" in name
        ]
        self.assertEqual(times, [NOW, NOW - 1])

    def test_twinOfAnEarlierOne(self) -> None:
        """
        An operation whose client gave its time is not taken for an earlier one that is
        alike in everything.
        """
        self.request(operation(openTime=NOW - 5))
        self.platform.work()
        self.turn()
        self.link.losesRequest.append("CreditIn")
        reserved = self.request(operation(openTime=NOW - 5))
        self.wait(12)
        self.assertNoResult(reserved)
        self.assertEqual(self.states(), ["unseen"])

    def test_several(self) -> None:
        """
        If the platform shows several trades that may be it, a person has to decide.
        """
        self.link.losesReply.append("CreditIn")
        self.request(operation())
        twin = dict(self.platform.trades[5001], order=6001)
        self.platform.trades[6001] = twin
        self.wait(10)
        self.assertEqual(self.states(), ["held"])
        self.assertIn("several such trades: 5001, 6001", self.alarms[0])
        self.platform.work()
        self.wait(40)
        self.assertEqual(self.states(), ["held"])
        self.assertEqual(len(self.events()), 1)

    def test_severalUnseen(self) -> None:
        """
        If it does so only when the operation is held already, that person learns of it.
        """
        self.link.losesReply.append("CreditIn")
        self.platform.showsQueued = False
        self.request(operation())
        self.platform.listeners.clear()
        self.wait(200)
        [alarm] = self.alarms
        self.assertIn("does not show it", alarm)
        twin = dict(self.platform.trades[5001], order=6001)
        self.platform.trades[6001] = twin
        self.platform.showsQueued = True
        self.wait(200)
        self.assertEqual(self.states(), ["held"])
        self.assertIn("several such trades: 5001, 6001", self.only().why)
        [_, alarm] = self.alarms
        self.assertIn("several such trades: 5001, 6001", alarm)

    def test_slowQueue(self) -> None:
        """
        What is accepted and queued is waited for, however long it takes.
        """
        self.request(operation())
        self.wait(300)
        self.assertEqual((self.states(), self.alarms), (["accepted"], []))
        self.platform.work()
        self.turn()
        self.assertEqual(self.events(), [(ADD, 5001, BOOKED, 300)])

    def test_queuedIsInvisible(self) -> None:
        """
        What was accepted and does not show is not sent again.
        """
        self.platform.showsQueued = False
        self.request(operation())
        self.wait(60)
        self.assertEqual(self.states(), ["unseen"])
        self.platform.work()
        self.turn()
        self.assertEqual(self.events(), [(ADD, 5001, BOOKED, 300)])
        self.assertEqual(self.money(), [(5001, 1001, 300)])

    def test_forgotten(self) -> None:
        """
        What the platform had accepted and has lost in a crash is held.
        """
        self.request(operation())
        self.platform.crash()
        self.wait(160)
        self.assertEqual(self.states(), ["held"])
        self.assertEqual(self.money(), [])

    def test_orderOfAnother(self) -> None:
        """
        An order that the platform gives again, after a crash, is not taken for what it
        had been given for before.
        """
        self.request(operation())
        self.platform.crash()
        self.platform.nextOrder = 5001
        self.platform.person(1001, 6, 50)
        self.turn()
        self.wait(3)
        self.assertEqual(self.states(), ["held"])
        self.assertEqual(self.events(), [(ADD, 5001, BOOKED, 50)])

    def test_deletedAtOnce(self) -> None:
        """
        What was booked, and deleted before the gateway saw it, was booked.
        """
        reservation = self.successResultOf(self.request(operation()))
        self.link.isAutomatic = False
        self.platform.work()
        self.platform.change(5001, state=6)
        self.link.events.clear()
        self.link.isAutomatic = True
        durable = reservation.whenDurable()
        self.wait(2)
        self.successResultOf(durable)
        self.assertEqual(
            self.events(), [(ADD, 5001, BOOKED, 300), (DELETE, 5001, DELETED, 300)]
        )


class TurnTests(GatewayTestCase):
    """
    Which operations wait for which.
    """

    def test_oneAtATime(self) -> None:
        """
        Those of a login are sent one after another, those of others meanwhile.
        """
        first = self.request(operation(1))
        second = self.request(operation(2))
        third = self.request(operation(3, login=1002))
        self.assertEqual(list(self.platform.trades), [5001, 5002])
        self.successResultOf(first)
        self.assertNoResult(second)
        self.successResultOf(third)
        self.platform.work()
        self.turn()
        self.successResultOf(second)
        self.platform.work()
        self.assertEqual(
            self.money(), [(5001, 1001, 1), (5002, 1002, 3), (5003, 1001, 2)]
        )

    def test_patience(self) -> None:
        """
        One whose turn does not come is refused before its client gives up: nothing of
        it was, or will be, sent.
        """
        self.request(operation(1))
        second = self.request(operation(2))
        self.wait(3.5)
        self.assertNoResult(second)
        self.wait(0.5)
        why = self.refusalOf(second)
        self.assertIsInstance(why, Busy)
        self.assertEqual(why.data, {"retry_after_ms": 250})
        self.platform.work()
        self.wait(60)
        self.assertEqual(self.money(), [(5001, 1001, 1)])

    def test_blockedWhileItWaits(self) -> None:
        """
        If the one before it can't be seen by then, it is told when that is looked up.
        """
        self.platform.refusals[1001] = 500, "TECH_PROBLEM"
        self.link.isAutomatic = False
        self.request(operation(1))
        second = self.request(operation(2))
        self.link.isAutomatic = True
        self.link.deliverRequest()
        self.wait(4)
        self.assertEqual(self.refusalOf(second).data, {"retry_after_ms": 30_000})

    def test_blocked(self) -> None:
        """
        One that is not seen blocks its login, and no other.
        """
        self.link.losesRequest.append("CreditIn")
        self.request(operation(1))
        self.wait(11)
        why = self.refusalOf(self.request(operation(2)))
        self.assertEqual(
            why.message, "account 1001 is blocked by operation 1, which is unseen"
        )
        self.assertEqual(why.data, {"retry_after_ms": 30_000})
        self.successResultOf(self.request(operation(3, login=1002)))

    def test_bound(self) -> None:
        """
        More operations than the limit allows are refused.
        """
        for login in range(100):
            self.request(operation(login=2000 + login))
        why = self.refusalOf(self.request(operation()))
        self.assertEqual((why.status, why.limit), (503, "max-queued"))


class KeyTests(GatewayTestCase):
    """
    A key books once.
    """

    def test_attached(self) -> None:
        """
        A repetition gets the same reservation, also before its order is known.
        """
        self.link.isAutomatic = False
        first = self.request(operation(key="k"))
        second = self.request(operation(key="k"))
        self.link.deliverRequest()
        self.link.deliverReply()
        reservation = self.successResultOf(first)
        self.assertIs(self.successResultOf(second), reservation)
        self.assertIs(
            self.successResultOf(self.request(operation(key="k"))), reservation
        )
        self.assertEqual(len(self.platform.trades), 1)

    def test_replayed(self) -> None:
        """
        After the booking, a repetition gets the trade as it was booked.
        """
        self.request(operation(key="k"))
        self.platform.work()
        self.turn()
        self.platform.change(5001, profit=1)
        self.turn()
        replay = self.successResultOf(self.request(operation(key="k")))
        self.assertEqual(
            (replay.isReplay, replay.order, replay.trade.profit, replay.place),
            (True, 5001, 300 * ONE, 1),
        )
        self.assertEqual(self.money(), [(5001, 1001, 1)])

    def test_replayedAfterRestart(self) -> None:
        """
        The same after a restart, and while the platform can't be reached.
        """
        self.request(operation(key="k"))
        self.platform.work()
        self.turn()
        self.kill()
        self.begin()
        self.link.cut()
        replay = self.successResultOf(self.request(operation(key="k")))
        self.assertEqual((replay.isReplay, replay.order), (True, 5001))

    def test_reused(self) -> None:
        """
        Another request with the same key is refused, at any time.
        """
        self.request(operation(key="k"))
        why = self.refusalOf(self.request(operation(301, key="k")))
        self.assertIsInstance(why, IdempotencyKeyReused)
        self.assertEqual(why.data, {"order": 5001})
        self.platform.work()
        self.turn()
        why = self.refusalOf(self.request(operation(301, key="k")))
        self.assertIsInstance(why, IdempotencyKeyReused)

    def test_unseen(self) -> None:
        """
        A repetition of one that is not seen sends nothing.
        """
        self.link.losesRequest.append("CreditIn")
        self.request(operation(key="k"))
        self.wait(11)
        self.assertNoResult(self.request(operation(key="k")))
        commands = [each.command for each in self.link.sent]
        self.assertEqual(commands.count("CreditIn"), 1)

    def test_held(self) -> None:
        """
        A repetition of one that is held has an unknown outcome at once.
        """
        self.link.losesRequest.append("CreditIn")
        first = self.request(operation(key="k"))
        self.wait(160)
        for each in (first, self.request(operation(key="k"))):
            why = self.refusalOf(each)
            self.assertIsInstance(why, OutcomeUnknown)
            self.assertEqual((why.status, why.data), (504, None))

    def test_heldOrder(self) -> None:
        """
        A repetition of one that is held is told the order that the platform had named.
        """
        self.request(operation(key="k"))
        self.platform.crash()
        self.wait(160)
        self.assertEqual(self.states(), ["held"])
        why = self.refusalOf(self.request(operation(key="k")))
        self.assertEqual((why.status, why.data), (504, {"order": 5001}))

    def test_getOperation(self) -> None:
        """
        What is known under a key can be looked up at any time.
        """
        look = self.gateway.operation
        self.assertIsNone(self.successResultOf(look(7, "k")))
        self.link.losesRequest.append("CreditIn")
        self.request(operation(key="k"))
        known = self.successResultOf(look(7, "k"))
        assert isinstance(known, dict)
        self.assertEqual(
            (known["order"], known["state"], known["profit"], "held" in known),
            (0, 10, 300, False),
        )
        self.wait(160)
        known = self.successResultOf(look(7, "k"))
        assert isinstance(known, dict)
        self.assertEqual((known["order"], known["held"]), (0, True))
        self.assertIsNone(self.successResultOf(look(8, "k")))

    def test_getOperationBooked(self) -> None:
        """
        A booked one is the trade as it is now.
        """
        self.request(operation(key="k"))
        known = self.successResultOf(self.gateway.operation(7, "k"))
        assert isinstance(known, dict)
        self.assertEqual((known["order"], known["state"]), (5001, 10))
        self.platform.work()
        self.turn()
        known = self.successResultOf(self.gateway.operation(7, "k"))
        self.assertEqual(known, self.log.ledger.trade(5001))
        order = self.successResultOf(self.gateway.orderOf(7, "k"))
        self.assertEqual(order, 5001)


class ChangeTests(GatewayTestCase):
    """
    Updates and deletions.
    """

    def setUp(self) -> None:
        """
        Have the platform book a credit.
        """
        super().setUp()
        self.platform.person(1001, 7, 100)
        self.turn()
        self.events()

    def test_updated(self) -> None:
        """
        An update is looked at, sent, and booked when the trade is as requested.
        """
        reservation = self.successResultOf(self.request(operation(200, order=5001)))
        self.assertEqual((reservation.type, reservation.order), (UPDATE, 5001))
        commands = [name for name, _ in self.platform.heard]
        self.assertEqual(commands[-2:], ["GetTradeByOrder", "CreditIn"])
        self.platform.work()
        self.turn()
        self.assertEqual(self.events(), [(UPDATE, 5001, BOOKED, 200)])

    def test_updatedBeforeTheGateway(self) -> None:
        """
        A trade that is older than the gateway comes into the journal before its
        update.
        """
        self.platform.trades[700] = dict(self.platform.trades[5001], order=700)
        self.request(operation(200, order=700))
        self.platform.work()
        self.turn()
        self.assertEqual(
            self.events(), [(ADD, 700, BOOKED, 100), (UPDATE, 700, BOOKED, 200)]
        )

    def test_notFoundIsNew(self) -> None:
        """
        An update of an order that does not exist makes a new trade.
        """
        reservation = self.successResultOf(self.request(operation(200, order=9999)))
        self.assertEqual((reservation.type, reservation.order), (ADD, 5002))
        self.assertNotIn("order", self.platform.heard[-1][1])

    def test_incorrectOrder(self) -> None:
        """
        An update of another account's trade, or of another kind, is refused without
        anything being sent.
        """
        for asked in (
            operation(order=5001, login=1002),
            operation(order=5001, method="BalanceIn"),
        ):
            self.assertIsInstance(self.refusalOf(self.request(asked)), IncorrectOrder)
        self.assertEqual(len(self.platform.trades), 1)

    def test_lookFails(self) -> None:
        """
        If the platform does not show the trade, nothing is sent.
        """
        self.link.losesReply.append("GetTradeByOrder")
        reserved = self.request(operation(200, order=5001))
        self.wait(4)
        self.assertIsInstance(self.refusalOf(reserved), Busy)
        self.wait(20)
        self.assertEqual(self.platform.trades[5001]["profit"], 100)

    def test_lookRefused(self) -> None:
        """
        That the platform refuses a look-up does not mean that the order is absent.
        """
        self.platform.lacks.add("GetTradeByOrder")
        for asked in (operation(200, order=5001), deletion(5002)):
            self.assertIsInstance(self.refusalOf(self.request(asked)), Busy)
        self.assertEqual(list(self.platform.trades), [5001])

    def test_lostReply(self) -> None:
        """
        An update whose reply is lost is looked up.
        """
        self.link.losesReply.append("CreditIn")
        self.request(operation(200, order=5001))
        self.platform.work()
        self.wait(10)
        self.assertEqual(self.events(), [(UPDATE, 5001, BOOKED, 200)])

    def test_lostRequest(self) -> None:
        """
        One that never changes the trade is held.
        """
        self.link.losesRequest.append("CreditIn")
        self.request(operation(200, order=5001))
        self.wait(160)
        self.assertEqual(self.states(), ["held"])
        self.assertIn("order 5001 is as it was", self.alarms[0])

    def test_foreignUpdate(self) -> None:
        """
        What somebody else makes of the trade meanwhile is not taken for the update.
        """
        self.request(operation(200, order=5001))
        self.platform.change(5001, profit=150)
        self.turn()
        self.assertEqual(self.events(), [(UPDATE, 5001, BOOKED, 150)])
        self.assertEqual(self.states(), ["accepted"])
        self.platform.work()
        self.turn()
        self.assertEqual(self.events(), [(UPDATE, 5001, BOOKED, 200)])

    def test_newInstead(self) -> None:
        """
        If the platform makes a new trade instead of the update, that is deleted at
        once, and the update is held.
        """
        self.platform.makesNew = True
        reserved = self.request(operation(200, order=5001))
        self.assertEqual(self.refusalOf(reserved).status, 504)
        self.assertEqual(self.states(), ["held", "accepted"])
        self.assertIn("the platform has made order 5002 instead", self.alarms[0])
        self.platform.work()
        self.wait(3)
        self.assertEqual(self.platform.trades[5002]["state"], 6)
        self.assertEqual(self.states(), ["held"])

    def test_deleted(self) -> None:
        """
        A deletion is looked at, sent, and booked when the trade is deleted.
        """
        reservation = self.successResultOf(self.request(deletion(5001)))
        self.assertEqual((reservation.type, reservation.order), (DELETE, 5001))
        self.platform.work()
        self.turn()
        self.assertEqual(self.events(), [(DELETE, 5001, DELETED, 100)])

    def test_deleteNothing(self) -> None:
        """
        What does not exist, is of another kind or was deleted can't be deleted.
        """
        self.assertIsInstance(self.refusalOf(self.request(deletion(9999))), NotFound)
        self.platform.person(1001, 6, 100)
        self.turn()
        self.assertIsInstance(
            self.refusalOf(self.request(deletion(5002))), IncorrectOrder
        )
        self.platform.change(5001, state=6)
        self.turn()
        self.assertIsInstance(
            self.refusalOf(self.request(deletion(5001))), IncorrectOrder
        )
        commands = [name for name, _ in self.platform.heard]
        self.assertNotIn("DeleteCredit", commands)

    def test_deletionLost(self) -> None:
        """
        A deletion whose reply is lost is looked up.
        """
        self.link.losesReply.append("DeleteCredit")
        self.request(deletion(5001, key="k"))
        self.assertNoResult(self.request(deletion(5001, key="k")))
        self.platform.work()
        self.wait(10)
        self.assertEqual(self.events(), [(DELETE, 5001, DELETED, 100)])
        replay = self.successResultOf(self.request(deletion(5001, key="k")))
        self.assertTrue(replay.isReplay)


class ForeignTests(GatewayTestCase):
    """
    What people do at the platform.
    """

    def test_passedThrough(self) -> None:
        """
        Each change of a finance trade is published once, and nothing else is.
        """
        self.platform.person(1001, 6, 100)
        self.platform.person(1002, 0, 5)
        self.platform.change(5001, profit=150)
        self.platform.change(5001, state=6)
        self.turn()
        self.assertEqual(
            self.events(),
            [
                (ADD, 5001, BOOKED, 100),
                (UPDATE, 5001, BOOKED, 150),
                (DELETE, 5001, DELETED, 150),
            ],
        )

    def test_contradiction(self) -> None:
        """
        A record that can't follow the one before it is an alarm, and ends nothing.
        """
        self.platform.person(1001, 6, 100)
        self.platform.change(5001, login=1002)
        self.platform.person(1003, 6, 100)
        self.turn()
        self.assertEqual([event[1] for event in self.events()], [5001, 5002])
        self.assertIn("another login", self.alarms[0])

    def test_unreadable(self) -> None:
        """
        A record that can't be read is nothing.
        """
        for record in ({}, {"order": "5"}, {"order": 5, "login": 1001, "cmd": 7}):
            self.gateway.eventReceived(0, record)
        self.turn()
        self.assertEqual(self.events(), [])

    def test_groups(self) -> None:
        """
        Groups of accounts are the gateway's own, and durable when that is said.
        """
        moved = self.gateway.setGroup(1001, "real")
        self.assertEqual(self.gateway.groupOf(1001), "")
        self.turn()
        self.successResultOf(moved)
        self.assertEqual(self.gateway.groupOf(1001), "real")
        self.assertEqual(self.successResultOf(self.gateway.groups()), ["real"])
        self.platform.person(1001, 6, 1)
        self.turn()
        self.assertEqual(self.gateway.groupOf(1001), "real")

    def test_lookUps(self) -> None:
        """
        The totals of accounts are the platform's, trades of before the gateway too.
        """
        self.platform.accounts[1001] = {
            "login": 1001,
            "balance": 10.5,
            "credit": 2,
            "group": "real",
        }
        found = self.gateway.account(1001)
        missing = self.gateway.account(1002)
        self.turn()
        account = self.successResultOf(found)
        assert account is not None
        self.assertEqual(
            (account.balance, account.credit, account.group),
            (1_050_000_000, 200_000_000, ""),
        )
        self.assertIsNone(self.successResultOf(missing))
        old = self.gateway.trade(5001)
        self.turn()
        self.assertIsNone(self.successResultOf(old))
        self.link.cut()
        self.assertIsInstance(self.failureResultOf(self.gateway.trade(1)).value, Busy)


class CatchUpTests(GatewayTestCase):
    """
    The changes of the time without a connection.
    """

    def test_gap(self) -> None:
        """
        What changed meanwhile is published, each change once, and a gap later again
        what changed in that.
        """
        self.platform.person(1001, 6, 1)
        self.turn()
        for amount in (2, 3):
            self.link.cut()
            self.wait(1000)
            self.platform.person(1001, 6, amount)
            self.wait(1000)
            self.link.connect()
            self.turn()
        self.assertEqual([event[1] for event in self.events()], [5001, 5002, 5003])

    def test_eventBeforeCatchUp(self) -> None:
        """
        An event that comes before the catch-up does not hide what was missed.
        """
        self.platform.person(1001, 6, 1)
        self.turn()
        self.link.cut()
        self.platform.person(1001, 6, 2)
        self.wait(1000)
        self.link.losesReply.append("MngGetTradesByFilter")
        self.link.connect()
        self.platform.person(1001, 6, 3)
        self.turn()
        self.assertEqual([event[1] for event in self.events()], [5001, 5003])
        self.link.cut()
        self.link.connect()
        self.turn()
        self.assertEqual([event[1] for event in self.events()], [5002])

    def test_manyInOneSecond(self) -> None:
        """
        Pages follow each other by time and order, also where one second has more
        changes than a page.
        """
        self.platform.person(1001, 6, 1)
        self.turn()
        self.link.cut()
        for second in range(3):
            for number in range(700 if second == 1 else 30):
                self.platform.person(2000 + number, 6, 1)
            self.clock.advance(1)
        self.link.connect()
        self.turn(40)
        orders = [event[1] for event in self.events()]
        self.assertEqual(orders, list(range(5001, 5762)))

    def test_changeBetweenPages(self) -> None:
        """
        A trade that changes while pages are read, and so leaves those that were read,
        does not hide another one.
        """
        self.link.cut()
        for number in range(501):
            self.platform.person(2000 + number, 6, 1)
        self.clock.advance(10)
        self.link.isAutomatic = False
        self.link.connect()
        self.link.deliverRequest()
        self.platform.change(5001, profit=2)
        self.link.isAutomatic = True
        self.link.deliverReply()
        self.turn(20)
        orders = [event[1] for event in self.events() if event[0] == ADD]
        self.assertEqual(sorted(orders), list(range(5001, 5502)))

    def test_afterRestart(self) -> None:
        """
        The mark is durable: what changed while the gateway was stopped is published.
        """
        self.platform.person(1001, 6, 1)
        self.turn()
        self.kill()
        self.platform.person(1001, 6, 2)
        self.wait(1000)
        self.begin()
        self.assertEqual([event[1] for event in self.events()], [5001, 5002])

    def test_keptIsNotCaughtUp(self) -> None:
        """
        A change that is kept for an operation in flight is not lost if the gateway is
        killed then, however long it takes until the next start.
        """
        self.platform.person(1001, 6, 1)
        self.turn()
        self.wait(500)
        self.link.losesReply.append("CreditIn")
        self.request(operation())
        self.platform.person(1001, 6, 2)
        self.turn()
        self.wait(5)
        self.platform.person(1002, 6, 3)
        self.turn()
        self.kill()
        self.wait(1000)
        self.begin()
        self.assertIn((ADD, 5003, BOOKED, 2), self.events())

    def test_killedBeforeTheFirst(self) -> None:
        """
        What changes after the first start of a gateway is not lost if it is killed
        before it has caught up for the first time.
        """
        self.kill()
        self.log.mark = 0
        self.isAutomatic = False
        self.begin()
        self.kill()
        self.isAutomatic = True
        self.platform.person(1001, 6, 1)
        self.wait(1000)
        self.begin()
        self.assertEqual([event[1] for event in self.events()], [5001])

    def test_history(self) -> None:
        """
        A new gateway begins with what changes from then on.
        """
        self.kill()
        self.platform.person(1001, 6, 1)
        self.clock.advance(1000)
        self.log = type(self.log)()
        self.begin()
        self.assertEqual(self.events(), [])


class VerificationTests(GatewayTestCase):
    """
    What was booked is looked at again.
    """

    def setUp(self) -> None:
        """
        Have two operations booked.
        """
        super().setUp()
        for login in (1001, 1002):
            self.request(operation(login=login))
            self.platform.work()
            self.turn()
        self.events()

    def again(self) -> None:
        """
        Connect again, after a while.
        """
        self.link.cut()
        self.wait(300)
        self.link.connect()
        self.turn(20)

    def test_sound(self) -> None:
        """
        What is as it was, or was changed and caught up, is no alarm.
        """
        self.platform.change(5001, profit=7)
        self.turn()
        self.again()
        self.assertEqual(self.alarms, [])

    def test_lag(self) -> None:
        """
        One that was booked just now, and that look-ups do not show yet, is no alarm.
        """
        self.link.cut()
        trade = self.platform.trades.pop(5002)
        self.link.connect()
        self.turn(20)
        self.platform.trades[5002] = trade
        self.wait(6)
        self.assertEqual(self.alarms, [])
        found = self.gateway.verification.last
        assert found is not None
        self.assertEqual((found.looked, found.findings), (2, []))

    def test_lagOfState(self) -> None:
        """
        Nor is one that they still show as queued.
        """
        self.link.cut()
        self.platform.trades[5002]["state"] = 10
        self.link.connect()
        self.turn(20)
        self.platform.trades[5002]["state"] = 3
        self.wait(6)
        self.assertEqual(self.alarms, [])

    def test_lostJustNow(self) -> None:
        """
        If they do not show it later either, it is.
        """
        self.link.cut()
        del self.platform.trades[5002]
        self.link.connect()
        self.turn(20)
        self.assertEqual(self.alarms, [])
        self.wait(6)
        self.assertEqual(
            self.alarms,
            ["order 5002, which the platform had booked, is not booked there any more"],
        )

    def test_gone(self) -> None:
        """
        A booking that the platform has lost is an alarm, once, and is not repeated at
        the platform.
        """
        del self.platform.trades[5001]
        self.again()
        self.again()
        self.assertEqual(
            self.alarms,
            ["order 5001, which the platform had booked, is not booked there any more"],
        )
        self.assertEqual([text for _, text in self.log.alarms], self.alarms)
        self.assertEqual(list(self.platform.trades), [5002])

    def test_deletedAndHidden(self) -> None:
        """
        A platform need not show what was deleted. If it hides a deletion that the
        journal lacks, that is an alarm.
        """
        self.platform.change(5001, state=6)
        self.turn()
        self.assertEqual(self.events(), [(DELETE, 5001, DELETED, 300)])
        for order in (5001, 5002):
            del self.platform.trades[order]
        self.again()
        self.assertEqual(
            self.alarms,
            ["order 5002, which the platform had booked, is not booked there any more"],
        )

    def test_changed(self) -> None:
        """
        A change that no event and no catch-up has brought is an alarm, and comes into
        the journal.
        """
        self.wait(200)
        self.platform.person(1003, 6, 1)
        self.wait(31)
        self.platform.trades[5001].update(profit=7, update_time=NOW + 1)
        self.events()
        self.again()
        self.assertIn("changed there without an event", self.alarms[0])
        self.assertEqual(self.events(), [(UPDATE, 5001, BOOKED, 7)])

    def test_back(self) -> None:
        """
        A booking whose last change the platform has lost is an alarm.
        """
        former = dict(self.platform.trades[5001])
        self.wait(10)
        self.platform.change(5001, profit=7)
        self.turn()
        self.platform.trades[5001] = former
        self.again()
        self.assertIn("as it was before its last change", self.alarms[0])

    def test_underWay(self) -> None:
        """
        What an operation under way has changed is no alarm, and is published once.
        """
        self.wait(10)
        self.log.isHeld = True
        self.request(operation(7, order=5001))
        self.log.release()
        self.turn()
        self.link.isConnected = True
        self.platform.change(5001, profit=7, comment="gift")
        self.link.events.clear()
        self.gateway.verification.start()
        self.turn()
        self.log.isHeld = False
        while self.log._writes:
            self.log.release()
        self.wait(20)
        self.assertEqual(self.alarms, [])

    def test_lookUpsFail(self) -> None:
        """
        If the platform does not show orders, nothing follows from it.
        """
        self.platform.lacks.add("GetTradeByOrder")
        self.again()
        self.assertEqual(self.alarms, [])


class RestartTests(GatewayTestCase):
    """
    The end of the gateway at any point, and its next start.
    """

    def restart(self) -> None:
        """
        Kill the gateway, and start it.
        """
        self.kill()
        self.begin()

    def test_sent(self) -> None:
        """
        What was sent is looked for after a restart, and not sent again.
        """
        self.link.isAutomatic = False
        self.request(operation(key="k"))
        self.link.deliverRequest()
        self.restart()
        self.assertEqual(self.states(), ["accepted"])
        self.platform.work()
        self.turn()
        self.assertEqual(self.events(), [(ADD, 5001, BOOKED, 300)])
        replay = self.successResultOf(self.request(operation(key="k")))
        self.assertEqual((replay.isReplay, replay.order), (True, 5001))
        self.assertEqual(self.money(), [(5001, 1001, 300)])

    def test_bookedMeanwhile(self) -> None:
        """
        What was booked while the gateway was away is found, and published once.
        """
        self.link.isAutomatic = False
        self.request(operation(key="k"))
        self.link.deliverRequest()
        self.platform.work()
        self.restart()
        self.wait(40)
        self.assertEqual(self.events(), [(ADD, 5001, BOOKED, 300)])

    def test_neverArrived(self) -> None:
        """
        What the platform never got blocks its login after a restart too.
        """
        self.link.losesRequest.append("CreditIn")
        self.request(operation(key="k"))
        self.restart()
        self.assertEqual(self.states(), ["unseen"])
        self.assertIsInstance(self.refusalOf(self.request(operation(5))), Busy)
        self.wait(160)
        self.assertEqual(self.states(), ["held"])
        self.restart()
        self.assertEqual(self.states(), ["held"])

    def test_notYetSent(self) -> None:
        """
        What was not durable was not sent, and its key is free.
        """
        self.gateway.submit(operation(key="k"))
        self.restart()
        self.assertEqual(self.states(), [])
        self.successResultOf(self.request(operation(key="k")))

    def test_stopWithoutACommit(self) -> None:
        """
        A stop that does not wait for a commit any longer closes the log all the same.
        """
        closed: list[bool] = []
        self.patch(self.log, "close", lambda: closed.append(True))
        self.log.isHeld = True
        self.request(operation(1))
        stopped = self.gateway.stopService()
        self.assertNoResult(stopped)
        stopped.cancel()
        self.failureResultOf(stopped, CancelledError)
        self.assertEqual(closed, [True])

    def test_closedMeanwhile(self) -> None:
        """
        A commit that ends with the log is no failure of the gateway.
        """
        self.patch(type(self.log), "write", lambda *_: fail(CancelledError()))
        self.request(operation(1))
        self.assertNoResult(self.gateway.whenFailed())

    def test_idle(self) -> None:
        """
        A gateway that has nothing to write commits every 30 seconds all the same, so
        that it learns whether another one has taken over.
        """
        self.wait(31)
        self.log.isHeld = True
        self.wait(28)
        self.assertEqual(self.log._writes, [])
        self.wait(2)
        [((intents, reservations, _, _), _)] = self.log._writes
        self.assertEqual((intents, list(reservations)), ({}, []))
        self.log.isHeld = False
        self.log.release()

    def test_stop(self) -> None:
        """
        A stop leaves nothing to do, and afterwards nothing is taken.
        """
        self.request(operation(1))
        self.request(operation(2))
        self.successResultOf(self.gateway.stopService())
        self.assertIsInstance(self.refusalOf(self.request(operation(3))), ShuttingDown)
        self.wait(11)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(self.states(), ["accepted"])
