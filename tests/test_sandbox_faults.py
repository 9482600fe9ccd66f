"""
Tests for the faults of the sandbox, L{creditsync._sandbox.table}: each happens when it
is switched on, and not otherwise.
"""

from twisted.trial.unittest import SynchronousTestCase

from creditsync._sandbox.table import FAULTS, SECRET
from tests.sandboxed import CREDIT, NOW, Platform, quiet

REQUEST = {"login": 1001, "cmd": 7, "amount": 300.0, "comment": "Promotion credit"}
FIRST = 1242281
ACCEPTED = ("reply", 1, 200)
BOOKED = ("event", FIRST, 3)


class FaultTestCase(SynchronousTestCase):
    """
    A sandbox, and one connection to it.
    """

    def setUp(self) -> None:
        """
        Start one, and connect.
        """
        self.platform = Platform()
        self.client = self.platform.client()
        self.client.ask("HealthCheck", 0, {})

    def fault(self, name: str, **members: object) -> None:
        """
        Switch a fault on.
        """
        self.client.fault(name, **members)

    def credit(self) -> list[tuple[object, ...]]:
        """
        Send a credit, and return what is told within a second.
        """
        self.client.send("CreditIn", 1)
        return self.client.told()

    def assertCrashed(self) -> None:
        """
        Assert that the connection is closed, that new ones are closed too, and that it
        is there again a second later.
        """
        self.assertFalse(self.client.isOpen)
        self.assertEqual(self.platform.sandbox.crashes, 1)
        self.platform.passes(1)
        self.client = self.platform.client()
        self.assertEqual(self.client.ask("HealthCheck", 9, {})["status"], 200)


class RequestTests(FaultTestCase):
    """
    Faults that happen to requests.
    """

    def test_loseRequest(self) -> None:
        """
        A request that is lost is not carried out.
        """
        self.fault("lose-request")
        self.assertEqual(self.credit(), [])
        self.assertEqual(self.platform.booked(), [])
        self.assertTrue(self.client.isOpen)

    def test_lateRequest(self) -> None:
        """
        A request that is late is carried out after two seconds.
        """
        self.fault("late-request")
        self.assertEqual(self.credit(), [])
        self.assertEqual(self.client.told(0.9), [])
        self.assertEqual(self.client.told(), [ACCEPTED, BOOKED])

    def test_lateRequestOfALostConnection(self) -> None:
        """
        A request that is late is carried out although its connection is lost, unless
        it could not be carried out anyway.
        """
        self.fault("late-request")
        self.client.send("CreditIn", 1)
        self.client.send("CreditIn", 2, {})
        self.client.send("CreditIn", 3, token="nobody")
        self.client.close()
        self.platform.passes(1)
        self.assertEqual(self.platform.booked(), [])
        self.platform.passes(2)
        self.assertEqual(len(self.platform.booked()), 1)

    def test_lateRequestAndACrash(self) -> None:
        """
        A crash loses requests that are late.
        """
        self.fault("late-request")
        self.assertEqual(self.credit(), [])
        self.platform.sandbox.crash()
        self.platform.passes(5)
        self.assertEqual(self.platform.booked(), [])

    def test_refuse429(self) -> None:
        """
        A request is refused because there are too many.
        """
        self.fault("refuse-429")
        reply = self.client.ask("CreditIn", 1)
        self.assertEqual((reply["status"], reply["error"]), (429, "TOO_MANY_REQUESTS"))
        self.platform.passes(1)
        self.assertEqual(self.platform.booked(), [])

    def test_refuse500(self) -> None:
        """
        A request is refused for a technical problem, and not carried out.
        """
        self.fault("refuse-500")
        reply = self.client.ask("CreditIn", 1)
        self.assertEqual((reply["status"], reply["error"]), (500, "TECH_PROBLEM"))
        self.platform.passes(1)
        self.assertEqual(self.platform.booked(), [])

    def test_refuse401(self) -> None:
        """
        A request is refused as if its token were not valid.
        """
        self.fault("refuse-401")
        reply = self.client.ask("CreditIn", 1)
        self.assertEqual((reply["status"], reply["error"]), (401, "UNAUTHORIZED"))
        self.platform.passes(1)
        self.assertEqual(self.platform.booked(), [])

    def test_cutRequest(self) -> None:
        """
        The connection is closed by a request, which is not carried out.
        """
        self.fault("cut-request")
        self.assertEqual(self.credit(), [])
        self.assertFalse(self.client.isOpen)
        self.assertEqual(self.platform.booked(), [])
        self.assertTrue(self.platform.client().isOpen)

    def test_doubleRequest(self) -> None:
        """
        A request is carried out twice: there are two replies, each with an order, and
        two bookings.
        """
        self.fault("double-request")
        self.assertEqual(
            self.credit(), [ACCEPTED, ACCEPTED, BOOKED, ("event", FIRST + 1, 3)]
        )

    def test_crashRequest(self) -> None:
        """
        The platform crashes by a request, which is not carried out.
        """
        self.fault("crash-request", times=1)
        self.client.send("CreditIn", 1)
        self.client.send("CreditIn", 2)
        self.assertEqual(self.client.told(0.1), [])
        self.assertCrashed()
        self.assertEqual(self.platform.booked(), [])


class ReplyTests(FaultTestCase):
    """
    Faults that happen to replies.
    """

    def test_loseReply(self) -> None:
        """
        The reply is lost, and the credit is booked.
        """
        self.fault("lose-reply")
        self.assertEqual(self.credit(), [BOOKED])

    def test_lateReply(self) -> None:
        """
        The reply comes after three seconds, if that is set.
        """
        self.fault("late-reply", seconds=3)
        self.assertEqual(self.credit(), [BOOKED])
        self.assertEqual(self.client.told(1.9), [])
        self.assertEqual(self.client.told(0.2), [ACCEPTED])

    def test_lateReplyOfALostConnection(self) -> None:
        """
        A reply that is late is lost with its connection.
        """
        self.fault("late-reply")
        self.client.send("CreditIn", 1)
        self.assertEqual(self.client.told(1), [BOOKED])
        self.client.close()
        self.assertEqual(self.client.told(3), [])

    def test_doubleReply(self) -> None:
        """
        The reply comes twice.
        """
        self.fault("double-reply")
        self.assertEqual(self.credit(), [ACCEPTED, ACCEPTED, BOOKED])

    def test_overtakenReply(self) -> None:
        """
        The reply comes after the event.
        """
        self.fault("overtaken-reply")
        self.assertEqual(self.credit(), [BOOKED, ACCEPTED])
        # The other faults are over, and so is the wait.
        self.assertEqual(self.client.told(6), [])

    def test_overtakenReplyWithoutEvent(self) -> None:
        """
        If no event comes, the reply comes after five seconds; one without an order
        comes at once.
        """
        self.client.ask("Unsubscribe", 1, {"chanels": ["trade:event"]})
        self.fault("overtaken-reply")
        self.assertEqual(self.client.ask("HealthCheck", 1, {})["status"], 200)
        self.assertEqual(self.credit(), [])
        self.assertEqual(self.client.told(5), [ACCEPTED])

    def test_oddReply(self) -> None:
        """
        The reply is a 200 that names no order.
        """
        self.fault("odd-reply")
        self.assertEqual(
            self.client.ask("CreditIn", 1), {"extID": 1, "status": 200, "data": {}}
        )
        self.assertEqual(self.client.told(), [BOOKED])

    def test_failedReply(self) -> None:
        """
        The reply is a 500, and the credit is booked.
        """
        self.fault("failed-reply")
        self.assertEqual(self.credit(), [("reply", 1, 500), BOOKED])

    def test_objectError(self) -> None:
        """
        The error of a refusal is an object. What is no refusal stays as it is.
        """
        self.client.fault("object-error", times=9)
        self.assertEqual(
            self.client.ask("GetTradeByOrder", 1, {"order": 77}),
            {
                "extID": 1,
                "status": 404,
                "error": {
                    "code": 404,
                    "name": "TRADE_NOT_FOUND",
                    "message": "there is no order 77",
                },
            },
        )
        self.assertEqual(self.client.ask("HealthCheck", 2, {})["status"], 200)

    def test_shortPage(self) -> None:
        """
        A look-up gives the first half of its rows, and says how many there are.
        """
        for each in range(3):
            self.client.send("CreditIn", each)
        self.client.told(1)
        whole = self.client.ask("MngGetTradesByFilter", 7, {})["data"]
        self.fault("short-page")
        half = self.client.ask("MngGetTradesByFilter", 8, {})["data"]
        self.assertEqual(len(whole["rows"]), 3)
        self.assertEqual(half, {**whole, "rows": whole["rows"][:1]})

    def test_unsortedPage(self) -> None:
        """
        A look-up gives its rows in the opposite order.
        """
        for each in range(3):
            self.client.send("CreditIn", each)
        self.client.told(1)
        whole = self.client.ask("MngGetTradesByFilter", 7, {})["data"]
        self.fault("unsorted-page")
        other = self.client.ask("MngGetTradesByFilter", 8, {})["data"]
        first, second, third = whole["rows"]
        self.assertEqual(other, {**whole, "rows": [third, second, first]})

    def test_minuteTimes(self) -> None:
        """
        The time of a request is cut to the minute.
        """
        self.fault("minute-times")
        data = {"login": 1001, "amount": 1, "comment": "x", "open_time": 1767225599}
        order = self.client.ask("CreditIn", 1, data)["data"]["order"]
        self.client.told(1)
        found = self.client.ask("GetTradeByOrder", 2, {"order": order})["data"]
        self.assertEqual(found["open_time"], 1767225540)

    def test_cutReply(self) -> None:
        """
        The connection is closed at some byte of the reply, and the credit is booked.
        """
        whole = b'{"extID":1,"status":200,"data":{"accepted":true,"order":1242281,'
        lengths = set()
        for seed in range(20):
            platform = Platform(script=quiet(seed))
            client = platform.client()
            client.fault("cut-reply")
            client.send("CreditIn", 1)
            platform.passes(1)
            sent = client.wire.value()
            self.assertFalse(client.isOpen)
            self.assertNotIn(b"\n", sent)
            self.assertTrue(sent.startswith(whole[: len(sent)]), sent)
            self.assertEqual(len(platform.booked()), 1)
            lengths.add(len(sent))
        self.assertGreater(len(lengths), 10)

    def test_crashReply(self) -> None:
        """
        The platform crashes when it has accepted: there is no reply, and nothing was
        booked.
        """
        self.fault("crash-reply", times=1)
        self.client.send("CreditIn", 1)
        self.assertEqual(self.client.told(0.1), [])
        self.assertCrashed()
        self.assertEqual(self.platform.booked(), [])

    def test_crashAccepted(self) -> None:
        """
        The platform crashes after the reply, and what it has accepted is never booked.
        """
        self.fault("crash-accepted", times=1)
        self.client.send("CreditIn", 1)
        self.assertEqual(self.client.told(0.1), [ACCEPTED])
        self.assertCrashed()
        self.platform.passes(5)
        self.assertEqual(self.platform.booked(), [])

    def test_commands(self) -> None:
        """
        A fault may be for some commands only, by their requests.
        """
        self.fault("lose-reply", commands=["CreditIn", "CreditOut"])
        self.assertEqual(self.client.ask("HealthCheck", 1, {})["status"], 200)
        self.assertEqual(self.credit(), [BOOKED])


class LookUpTests(FaultTestCase):
    """
    Faults that happen to look-ups.
    """

    def found(self, **data: object) -> list[dict[str, object]]:
        """
        The trades that a search finds.
        """
        found = self.client.ask("MngGetTradesByFilter", 7, data)["data"]
        return [
            dict(zip(found["structure"], row, strict=True)) for row in found["rows"]
        ]

    def times(self, record: dict[str, object]) -> list[object]:
        """
        All times of a record but the one that is there twice.
        """
        return [record[name] for name in ("open_time", "close_time", "timestamp")]

    def book(self) -> None:
        """
        Have a credit booked with a time of its own, and another one a minute later.
        """
        data = {**CREDIT, "open_time": NOW - 100, "close_time": NOW - 90}
        self.client.ask("CreditIn", 1, data)
        self.platform.passes(60)
        self.client.ask("CreditIn", 2)
        self.platform.passes(1)
        self.client.lines()

    def assertFinds(self, field: str, times: dict[str, list[object]]) -> None:
        """
        Assert how many of the two trades each comparison finds.

        @param times: The value and the number, by the operator.
        """
        for operator, (value, count) in times.items():
            where = [[field, operator, value]]
            self.assertEqual(len(self.found(where=where)), count, operator)
            other = self.found(whereNot=where)
            self.assertEqual(len(other), 2 - count, operator)

    def test_millisecondTimes(self) -> None:
        """
        All times of a look-up count milliseconds, and so do those of its conditions.
        """
        self.book()
        self.fault("millisecond-times")
        first, second = self.found()
        own = [1767225500000, 1767225510000, 1767225600250]
        self.assertEqual(self.times(first), own)
        self.assertEqual(first["update_time"], 1767225600250)
        self.assertEqual(second["update_time"], 1767225660250)
        found = self.client.ask("GetTradeByOrder", 3, {"order": FIRST})["data"]
        self.assertEqual(self.times(found), own)
        self.assertFinds(
            "update_time",
            {
                "==": [1767225600250, 1],
                "!=": [1767225600000, 2],
                ">": [1767225600250, 1],
                ">=": [1767225600251, 1],
                "<": [1767225600251, 1],
                "<=": [1767225600249, 0],
            },
        )
        self.assertFinds(
            "open_time", {"==": [1767225500000, 1], ">": [1767225500000, 1]}
        )
        # Seconds are long ago, and what is no time is compared as ever.
        self.assertFinds("update_time", {">": [1767225600, 2]})
        self.assertFinds("login", {"==": [1001, 2]})

    def test_fractionTimes(self) -> None:
        """
        The time of a change has a fraction, in conditions too. What a request has
        chosen has none.
        """
        self.book()
        self.fault("fraction-times")
        first, _ = self.found()
        self.assertEqual(self.times(first), [1767225500, 1767225510, 1767225600.25])
        orders = self.client.ask("GetTradeByOrders", 4, {"orders": [FIRST]})["data"]
        self.assertEqual(orders["rows"][0][-1], 1767225600.25)
        self.assertFinds(
            "update_time",
            {
                "==": [1767225600.25, 1],
                ">": [1767225600.25, 1],
                ">=": [1767225600.25, 2],
                "<": [1767225600.25, 0],
                "<=": [1767225600, 0],
            },
        )

    def test_timesOfOneLookUp(self) -> None:
        """
        A look-up that is refused is answered as usual, and so is one of other things;
        of a look-up that meets both faults the first counts.
        """
        self.book()
        self.fault("millisecond-times", times=1, commands=["GetTradeByOrder"])
        self.fault("fraction-times")
        account = self.client.ask("GetAccountByLogin", 3, {"login": 1001})
        self.assertEqual(account["data"]["credit"], 600.0)
        for where in (1, [["update_time", "==", "x"]], [["update_time", "like", 1]]):
            bad = self.client.ask("MngGetTradesByFilter", 4, {"where": where})
            self.assertEqual((bad["status"], bad["error"]), (400, "INVALID_DATA"))
        found = [
            self.client.ask("GetTradeByOrder", 5, {"order": FIRST})["data"]["timestamp"]
            for _ in range(2)
        ]
        self.assertEqual(found, [1767225600250, 1767225600.25])


class EventTests(FaultTestCase):
    """
    Faults that happen to events.
    """

    def test_loseEvent(self) -> None:
        """
        The event is lost.
        """
        self.fault("lose-event")
        self.assertEqual(self.credit(), [ACCEPTED])
        self.assertEqual(len(self.platform.booked()), 1)

    def test_lateEvent(self) -> None:
        """
        The event comes after two seconds.
        """
        self.fault("late-event")
        self.assertEqual(self.credit(), [ACCEPTED])
        self.assertEqual(self.client.told(2), [BOOKED])

    def test_doubleEvent(self) -> None:
        """
        The event comes twice.
        """
        self.fault("double-event")
        self.assertEqual(self.credit(), [ACCEPTED, BOOKED, BOOKED])

    def test_cutEvent(self) -> None:
        """
        The connection is closed at some byte of the event.
        """
        self.fault("cut-event")
        self.client.send("CreditIn", 1)
        self.platform.passes(1)
        reply, _, rest = self.client.wire.value().partition(b"\r\n")
        self.assertIn(b'"accepted":true', reply)
        event = b'{"event":"trade:event","type":0,"data":{"order":1242281,'
        self.assertTrue(rest.startswith(event[: len(rest)]), rest)
        self.assertNotIn(b"\n", rest)
        self.assertFalse(self.client.isOpen)

    def test_crashEvent(self) -> None:
        """
        The platform crashes when it has booked, and nobody is told.
        """
        self.fault("crash-event", times=1)
        self.client.send("CreditIn", 1)
        self.assertEqual(self.client.told(0.1), [ACCEPTED])
        self.assertCrashed()
        self.assertEqual(self.platform.booked(), [(FIRST, 3, "Promotion credit")])

    def test_silentRequest(self) -> None:
        """
        The event of a finance request is left out, and that of its approval is not.
        """
        self.fault("silent-request")
        self.client.send("MngCreateFinanceRequest", 1, REQUEST)
        self.assertEqual(self.client.told(), [ACCEPTED])
        self.client.send("MngApproveFinanceRequest", 1, {"order": FIRST})
        self.assertEqual(self.client.told(), [ACCEPTED, BOOKED])

    def test_addedUpdate(self) -> None:
        """
        The event of an approval looks like that of a new trade; that of a deletion
        looks like itself.
        """
        self.fault("added-update")
        self.client.ask("MngCreateFinanceRequest", 1, REQUEST)
        self.client.told()
        self.client.ask("MngApproveFinanceRequest", 2, {"order": FIRST})
        self.platform.passes(1)
        self.client.send("DeleteCredit", 3, {"order": FIRST})
        self.platform.passes(1)
        events = [line for line in self.client.lines() if "event" in line]
        self.assertEqual(
            [(event["type"], event["data"]["state"]) for event in events],
            [(0, 3), (2, 6)],
        )
        self.fault("added-update", rate=0)
        self.client.ask("MngCreateFinanceRequest", 4, REQUEST)
        self.client.told()
        self.client.ask("MngApproveFinanceRequest", 5, {"order": FIRST + 1})
        self.platform.passes(1)
        [event] = [line for line in self.client.lines() if "event" in line]
        self.assertEqual((event["type"], event["data"]["state"]), (1, 3))


class BetweenTests(FaultTestCase):
    """
    Lines that come in between.
    """

    def before(self, name: str) -> bytes:
        """
        What comes before a reply if this is switched on.
        """
        self.fault(name)
        self.client.send("HealthCheck", 1, {})
        self.platform.passes(0.1)
        first, second, end = self.client.wire.value().split(b"\r\n")
        self.assertTrue(second.startswith(b'{"extID":1,'))
        self.assertEqual(end, b"")
        return bytes(first)

    def test_quotes(self) -> None:
        """
        Quotes.
        """
        line = self.before("quotes")
        self.assertEqual(line, b'["t","EURUSD",1.08421,1.08433,1767225600]')

    def test_notices(self) -> None:
        """
        Notices.
        """
        line = self.before("notices")
        self.assertEqual(line, b'["n",1767225600,"The market closes in an hour"]')

    def test_staff(self) -> None:
        """
        Records of the staff, with something that must not be logged.
        """
        line = self.before("staff")
        self.assertTrue(line.startswith(b'["m",7,'))
        self.assertIn(SECRET, line)


class BookingTests(FaultTestCase):
    """
    Faults of the booking.
    """

    def test_slowQueue(self) -> None:
        """
        What was accepted is booked two seconds later than usual.
        """
        self.fault("slow-queue")
        self.assertEqual(self.credit(), [ACCEPTED])
        self.assertEqual(self.client.told(1), [])
        self.assertEqual(self.client.told(1), [BOOKED])

    def test_unseenQueue(self) -> None:
        """
        An order that was accepted is not found until it is booked: not by a look-up or
        a deletion, and not by an update, which makes a new trade.
        """
        self.fault("slow-queue", times=1)
        self.fault("unseen-queue")
        self.client.ask("CreditIn", 1)
        found = self.client.ask("GetTradeByOrder", 2, {"order": FIRST})
        self.assertEqual((found["status"], found["error"]), (404, "TRADE_NOT_FOUND"))
        deleted = self.client.ask("DeleteCredit", 5, {"order": FIRST})
        self.assertEqual((deleted["status"], deleted["error"]), (404, "NOT_FOUND"))
        update = self.client.ask("CreditIn", 3, {**CREDIT, "order": FIRST})
        self.assertEqual(
            (update["data"]["order"], update["data"]["state"]), (FIRST + 1, 10)
        )
        self.assertEqual(self.client.told(3), [BOOKED, ("event", FIRST + 1, 3)])
        found = self.client.ask("GetTradeByOrder", 4, {"order": FIRST})
        self.assertEqual(found["data"]["state"], 3)

    def test_unseenChange(self) -> None:
        """
        Of an order that was booked, only what is queued is not found.
        """
        self.credit()
        self.fault("unseen-queue")
        self.client.ask("DeleteCredit", 2, {"order": FIRST})
        found = self.client.ask("GetTradeByOrder", 3, {"order": FIRST})
        self.assertEqual(found["data"]["state"], 3)
        again = self.client.ask("DeleteCredit", 4, {"order": FIRST})
        self.assertEqual(again["status"], 409)

    def test_hiddenDeletions(self) -> None:
        """
        A trade that is deleted is not found by a look-up; its event is sent, and it
        can't be deleted again.
        """
        self.fault("hidden-deletions")
        self.credit()
        self.client.send("CreditIn", 2)
        self.client.told()
        self.client.send("DeleteCredit", 3, {"order": FIRST})
        self.assertEqual(self.client.told(), [("reply", 3, 200), ("event", FIRST, 6)])
        found = self.client.ask("GetTradeByOrder", 4, {"order": FIRST})
        self.assertEqual((found["status"], found["error"]), (404, "TRADE_NOT_FOUND"))
        page = self.client.ask("MngGetTradesByFilter", 5, {"limit": 1})["data"]
        self.assertEqual([row[0] for row in page["rows"]], [FIRST + 1])
        self.assertEqual(page["count"], 1)
        again = self.client.ask("DeleteCredit", 6, {"order": FIRST})
        self.assertEqual(again["status"], 409)

    def test_cutComments(self) -> None:
        """
        A comment is cut after 31 characters, in events, in look-ups and in what a
        finance request becomes; a shorter one is left as it is.
        """
        self.fault("cut-comments")
        long = "The spring promotion for new clients"
        self.client.ask("CreditIn", 1, {**CREDIT, "comment": long})
        self.client.ask("MngCreateFinanceRequest", 2, {**REQUEST, "comment": long})
        self.client.ask("CreditIn", 3, {**CREDIT, "comment": long[:31]})
        self.platform.passes(1)
        events = [line for line in self.client.lines() if "event" in line]
        found = self.client.ask("GetTradeByOrder", 4, {"order": FIRST})
        said = [each["data"]["comment"] for each in [*events, found]]
        self.assertEqual(said, ["The spring promotion for new cl"] * 4)
        happened = {
            each.fault.name: each.happened for each in self.platform.script.settings()
        }
        self.assertEqual(happened, {"cut-comments": 2})

    def test_swappedOrders(self) -> None:
        """
        Of two new orders the first has the higher number; the next ones are as usual.
        """
        self.fault("swapped-orders", times=1)
        orders = [self.client.ask("CreditIn", n)["data"]["order"] for n in range(3)]
        self.assertEqual(orders, [FIRST + 1, FIRST, FIRST + 2])
        self.platform.passes(1)
        self.assertEqual(
            [order for order, _, _ in self.platform.booked()],
            [FIRST + 1, FIRST, FIRST + 2],
        )

    def test_approveTwice(self) -> None:
        """
        A request that was approved is approved once more, and booked once more.
        """
        self.fault("approve-twice")
        self.client.ask("MngCreateFinanceRequest", 1, REQUEST)
        self.client.told()
        for extID in (2, 3):
            reply = self.client.ask("MngApproveFinanceRequest", extID, {"order": FIRST})
            self.assertEqual(reply["data"]["order"], FIRST)
            self.assertEqual(reply["data"]["state"], 10)
        self.platform.passes(1)
        credit = self.client.ask("GetAccountByLogin", 4, {"login": 1001})
        self.assertEqual(credit["data"]["credit"], 600.0)
        self.assertEqual(
            self.platform.booked(),
            [
                (FIRST, 17, "Promotion credit"),
                (FIRST, 3, "Promotion credit"),
                (FIRST + 1, 3, "Promotion credit"),
            ],
        )

    def test_lostTail(self) -> None:
        """
        A crash loses what was booked in the second before it, although everybody was
        told, and look-ups have found it.
        """
        self.fault("lost-tail")
        self.client.send("CreditIn", 1)
        self.assertEqual(self.client.told(0.2), [ACCEPTED, BOOKED])
        found = self.client.ask("GetTradeByOrder", 2, {"order": FIRST})
        self.assertEqual(found["data"]["state"], 3)
        account = self.client.ask("GetAccountByLogin", 3, {"login": 1001})
        self.assertEqual(account["data"]["credit"], 300.0)
        self.assertEqual(self.platform.booked(), [])
        self.platform.sandbox.crash()
        self.platform.passes(0.1)
        self.assertCrashed()
        found = self.client.ask("GetTradeByOrder", 4, {"order": FIRST})
        self.assertEqual(found["status"], 404)
        self.assertEqual(self.platform.booked(), [])

    def test_tailThatIsNotLost(self) -> None:
        """
        After a second it is on disk; a search, a move of an account, or a stop puts it
        there sooner.
        """
        self.fault("lost-tail")
        self.credit()
        self.assertEqual(self.platform.booked(), [])
        self.platform.passes(0.1)
        self.assertEqual(len(self.platform.booked()), 1)
        self.client.ask("CreditIn", 2)
        self.platform.passes(0.1)
        found = self.client.ask("MngGetTradesByFilter", 3, {"tradeType": 4})
        self.assertEqual(found["data"]["count"], 2)
        self.client.ask("CreditIn", 4)
        self.platform.passes(0.1)
        self.client.lines()
        moved = {"login": 1001, "group": "real"}
        self.client.ask("MngSetAccountGroup", 5, moved, "admin")
        self.assertEqual(len(self.platform.booked()), 3)
        self.client.ask("CreditIn", 6)
        self.platform.passes(0.1)
        self.client.ask("CreditIn", 7)
        self.client.close()
        self.successResultOf(self.platform.stop())
        self.assertEqual(len(self.platform.booked()), 5)

    def test_tailOfSeveral(self) -> None:
        """
        What is booked behind a tail waits with it, so that nothing is on disk before
        what was booked earlier.
        """
        self.fault("lost-tail", times=1)
        for comment in ("first", "second"):
            self.client.ask("CreditIn", 1, {**CREDIT, "comment": comment})
            self.client.told(0.1)
        self.assertEqual(self.platform.booked(), [])
        self.platform.passes(1)
        self.assertEqual(
            [comment for _, _, comment in self.platform.booked()], ["first", "second"]
        )

    def test_repeatOrder(self) -> None:
        """
        The number of an order that a crash has lost is given to another one.
        """
        self.fault("repeat-order", times=1)
        self.fault("crash-accepted", times=1)
        self.client.send("CreditIn", 1)
        self.assertEqual(self.client.told(0.1), [ACCEPTED])
        self.assertCrashed()
        other = {**CREDIT, "login": 1002}
        orders = [
            self.client.ask("CreditIn", n, other)["data"]["order"] for n in (2, 3)
        ]
        self.assertEqual(orders, [FIRST, FIRST + 1])


class SeedTests(SynchronousTestCase):
    """
    All faults at once.
    """

    def course(self, seed: int) -> tuple[list[bytes], object, dict[str, int]]:
        """
        Two clients that connect anew whenever they are cut off, each with a request
        in every tenth of a second.

        @return: What each connection was sent, what is on disk, and how often each
            fault has happened.
        """
        platform = Platform(script=quiet(seed))
        for fault in FAULTS:
            platform.script.set(fault.name, 0.05)
        wires, clients = [], [platform.client(), platform.client()]
        for number in range(400):
            client = clients[number % 2]
            command, data = COMMANDS[number % len(COMMANDS)]
            order = FIRST + number // 5
            client.send(command, number, {**data, "order": order} if data else CREDIT)
            platform.passes(0.05)
            if not client.isOpen:
                wires.append(client.wire.value())
                clients[number % 2] = platform.client()
        platform.passes(10)
        happened = {
            each.fault.name: each.happened for each in platform.script.settings()
        }
        return wires, platform.booked(), happened

    def test_seed(self) -> None:
        """
        The same seed leads to the same bytes and the same ledger, with all faults at
        once; another seed does not.
        """
        first, again, other = (self.course(seed) for seed in (1, 1, 2))
        self.assertEqual(first, again)
        self.assertNotEqual(first[0], other[0])
        self.assertGreater(sum(times > 0 for times in first[2].values()), 25)


# Each with its data but for the order; without data, a credit.
COMMANDS: list[tuple[str, dict[str, object] | None]] = [
    ("CreditIn", None),
    ("MngCreateFinanceRequest", REQUEST),
    ("MngApproveFinanceRequest", {"comment": "x"}),
    ("GetTradeByOrder", {"comment": "x"}),
    ("CreditIn", CREDIT),
]


class OffTests(SynchronousTestCase):
    """
    Faults that are switched off.
    """

    def test_everyFaultHasItsTest(self) -> None:
        """
        Each fault has a test that shows it.
        """
        shown = {
            name
            for case in (
                RequestTests,
                ReplyTests,
                LookUpTests,
                EventTests,
                BetweenTests,
                BookingTests,
            )
            for name in vars(case)
        }
        for fault in FAULTS:
            first, *others = fault.name.split("-")
            name = "test_" + first + "".join(map(str.capitalize, others))
            self.assertIn(name, shown)

    def test_off(self) -> None:
        """
        A fault that is switched off changes nothing, even if it was on.
        """
        for fault in FAULTS:
            platform = Platform()
            client = platform.client()
            platform.script.set(fault.name)
            client.fault(fault.name, rate=0)
            self.assertEqual(self.course(platform), EXPECTED, fault.name)

    def course(self, platform: Platform) -> list[object]:
        """
        Whatever a fault could change.
        """
        client = platform.client()
        client.send("CreditIn", 1)
        told: list[object] = [client.told(0.02)]
        client.send("GetTradeByOrder", 2, {"order": FIRST})
        client.send("CreditIn", 3, {**CREDIT, "order": FIRST})
        told.append(client.told())
        client.send("MngCreateFinanceRequest", 4, REQUEST)
        told.append(client.told())
        client.send("MngApproveFinanceRequest", 5, {"order": FIRST + 1})
        client.send("MngApproveFinanceRequest", 6, {"order": FIRST + 1})
        told.append(client.told(0.1))
        client.send("CreditIn", 7)
        told.append((client.told(0.02), client.isOpen, platform.sandbox.crashes))
        platform.sandbox.crash()
        platform.passes(1)
        told.append(platform.booked())
        order = platform.client().ask("CreditIn", 8)["data"]["order"]
        told.append(order)
        return told


EXPECTED = [
    [ACCEPTED],
    [("reply", 2, 200), ("reply", 3, 200), BOOKED, BOOKED],
    [("reply", 4, 200), ("event", FIRST + 1, 17)],
    [("reply", 5, 200), ("reply", 6, 409), ("event", FIRST + 1, 3)],
    ([("reply", 7, 200)], True, 0),
    [
        (FIRST, 3, "Promotion credit"),
        (FIRST, 3, "Promotion credit"),
        (FIRST + 1, 17, "Promotion credit"),
        (FIRST + 1, 3, "Promotion credit"),
    ],
    FIRST + 3,
]
