"""
Tests for L{creditsync.gateway._twophase}.
"""

from creditsync.errors import Busy, OutcomeUnknown, Refusal
from creditsync.gateway import _looking
from creditsync.gateway._outcomes import Kind, Outcome
from tests.gateways import GatewayTestCase, operation
from tests.platforms import NOW

ADD = 0
BOOKED = 3

CREATE = "MngCreateFinanceRequest"
APPROVE = "MngApproveFinanceRequest"
DECLINE = "MngDeclineFinanceRequest"


class TwoPhaseTests(GatewayTestCase):
    """
    New trades by two phases, when nothing goes wrong or something does.
    """

    way = "two-phase"

    def steps(self) -> list[str]:
        """
        The commands by which the platform was to change something.
        """
        return [name for name, _ in self.platform.heard if "Finance" in name]

    def pending(self) -> list[int]:
        """
        The orders of the requests that wait for a decision.
        """
        trades = self.platform.trades.values()
        return [each["order"] for each in trades if each["state"] == 17]

    def test_booked(self) -> None:
        """
        A request is made, approved, and booked.
        """
        reservation = self.successResultOf(self.request(operation(comment="Easter")))
        self.assertEqual(
            self.platform.heard[-2:],
            [
                (
                    CREATE,
                    {
                        "login": 1001,
                        "cmd": 7,
                        "amount": 300,
                        "comment": "Easter",
                        "open_time": NOW - 60,
                        "gw_source": "creditsync",
                        "gw_uuid": "1",
                    },
                ),
                (APPROVE, {"order": 5001}),
            ],
        )
        self.assertEqual((reservation.order, reservation.type), (5001, ADD))
        self.platform.work()
        self.turn()
        self.assertEqual(self.events(), [(ADD, 5001, BOOKED, 300)])
        self.assertEqual(self.states(), [])

    def test_chosenBeforeApproved(self) -> None:
        """
        No order is approved before it is durable that it is the one.
        """
        self.log.isHeld = True
        self.request(operation())
        self.log.release()
        self.turn()
        self.assertEqual(self.steps(), [CREATE])
        self.log.release()
        self.turn()
        self.assertEqual(self.steps(), [CREATE, APPROVE])

    def test_createLost(self) -> None:
        """
        A request that is lost is made again.
        """
        self.link.losesRequest.append(CREATE)
        reserved = self.request(operation())
        self.wait(12)
        self.assertEqual(self.successResultOf(reserved).order, 5001)
        self.platform.work()
        self.turn()
        self.assertEqual(self.money(), [(5001, 1001, 300)])

    def test_createReplyLost(self) -> None:
        """
        If its reply is lost, and the platform shows it, it is the one.
        """
        self.link.losesReply.append(CREATE)
        reserved = self.request(operation())
        self.wait(12)
        self.assertEqual(self.successResultOf(reserved).order, 5001)
        self.assertEqual(self.steps(), [CREATE, APPROVE])
        self.platform.work()
        self.assertEqual(self.money(), [(5001, 1001, 300)])

    def test_createdTwice(self) -> None:
        """
        If the platform does not show it, it is made again, one of the two is approved,
        and the other is declined within a minute of its being shown.
        """
        self.link.losesReply += [CREATE, "MngGetTradesByFilter"]
        self.platform.hides.add(17)
        reserved = self.request(operation())
        self.wait(24)
        self.platform.hides.clear()
        self.assertEqual(self.successResultOf(reserved).order, 5002)
        self.platform.work()
        self.turn()
        self.assertEqual(self.pending(), [5001])
        self.wait(60)
        self.assertEqual(self.platform.trades[5001]["state"], 18)
        self.assertEqual(self.money(), [(5002, 1001, 300)])
        self.assertEqual(self.events(), [(ADD, 5002, BOOKED, 300)])

    def test_sweepSparesTheChosen(self) -> None:
        """
        What is chosen and not approved yet, and what is another's, is not declined.
        """
        self.request(operation(login=1002))
        self.platform.person(1001, 7, 300, state=17)
        self.platform.trades[5002]["state"] = 17
        self.link.losesRequest += [APPROVE] * 100
        self.request(operation())
        self.wait(130)
        self.assertEqual(self.pending(), [5002, 5003])
        self.link.losesRequest.clear()
        self.wait(14)
        self.platform.work()
        self.assertIn((5003, 1001, 300), self.money())

    def test_sweepOfOneThatWasShutOut(self) -> None:
        """
        What is left over is declined only by a gateway that can still commit: another
        one that has taken over may have chosen what this one has not.
        """
        self.link.losesReply += [CREATE, "MngGetTradesByFilter"]
        self.platform.hides.add(17)
        self.request(operation())
        self.wait(24)
        self.platform.hides.clear()
        self.platform.work()
        self.turn()
        self.log.isHeld = True
        self.wait(60)
        self.assertEqual(self.pending(), [5001])
        self.log.isHeld = False
        while self.log._writes:
            self.log.release()
            self.turn()
        self.assertEqual(self.pending(), [])

    def test_sweepOfMany(self) -> None:
        """
        What is left over is declined, however many requests wait for people.
        """
        self.patch(_looking, "PAGE", 2)
        for _ in range(5):
            order = self.platform.person(1002, 7, 300)
            self.platform.trades[order]["state"] = 17
        self.link.losesReply.append(CREATE)
        self.request(operation())
        self.wait(80)
        self.assertEqual(self.pending(), [5001, 5002, 5003, 5004, 5005])

    def test_createRefused(self) -> None:
        """
        A definite no to the request is the reply.
        """
        self.platform.refusals[1001] = 403, "FORBIDDEN"
        self.assertEqual(self.refusalOf(self.request(operation())).status, 403)
        self.assertEqual(self.states(), [])

    def test_away(self) -> None:
        """
        If the connection is lost before anything was sent, the client knows that.
        """
        reserved = self.gateway.submit(operation())
        self.link.cut()
        self.turn()
        self.assertIsInstance(self.refusalOf(reserved), Busy)  # type: ignore[arg-type]

    def test_approvalLost(self) -> None:
        """
        If the approval is lost, the platform shows that the request is pending, and it
        is approved again.
        """
        self.link.losesRequest.append(APPROVE)
        reserved = self.request(operation())
        self.wait(14)
        self.assertEqual(self.successResultOf(reserved).order, 5001)
        self.assertEqual(self.steps(), [CREATE, APPROVE])
        self.platform.work()
        self.assertEqual(self.money(), [(5001, 1001, 300)])

    def test_approvalReplyLost(self) -> None:
        """
        If its reply is lost, the platform shows that it is approved.
        """
        self.link.losesReply.append(APPROVE)
        self.request(operation())
        self.platform.work()
        self.wait(14)
        self.assertEqual(self.events(), [(ADD, 5001, BOOKED, 300)])
        self.assertEqual(self.steps(), [CREATE, APPROVE])

    def test_approvalRefused(self) -> None:
        """
        If the approval is refused, the request is declined, and only when the platform
        shows that the client gets to know the refusal.
        """
        self.link.isAutomatic = False
        reserved = self.request(operation())
        for _ in range(4):
            if self.steps() == [CREATE]:
                self.platform.refusals[1001] = 409, "TRADE_NO_MONEY"
            self.link.deliverRequest()
            self.link.deliverReply()
            self.turn()
        self.assertNoResult(reserved)
        self.wait(2)
        self.link.deliverRequest()
        self.link.deliverReply()
        self.turn()
        why = self.refusalOf(reserved)
        self.assertEqual((why.status, why.error), (409, "TRADE_NO_MONEY"))
        self.assertEqual(self.steps(), [CREATE, APPROVE, DECLINE])
        self.assertEqual(self.platform.trades[5001]["state"], 18)
        self.assertEqual(self.states(), [])

    def test_orderGivenAgain(self) -> None:
        """
        If the platform has lost the request in a crash, and its number is that of
        another one now, that is not approved.
        """
        self.link.losesRequest.append(APPROVE)
        self.request(operation())
        self.platform.trades[5001].update(login=1002, comment="another")
        self.wait(15)
        self.assertEqual(self.steps(), [CREATE])
        self.assertEqual(self.platform.trades[5001]["state"], 17)
        self.assertIn("order 5001 is another trade's", self.alarms[0])

    def test_declineIsLost(self) -> None:
        """
        If a crash has lost that a request was declined, the sweep declines it again.
        """
        self.link.losesRequest.append(APPROVE)
        self.request(operation())
        self.platform.refusals[1001] = 409, "TRADE_NO_MONEY"
        self.wait(20)
        self.assertEqual((self.states(), self.pending()), ([], []))
        self.platform.trades[5001]["state"] = 17
        self.wait(60)
        self.assertEqual(self.platform.trades[5001]["state"], 18)

    def test_declinedByAPerson(self) -> None:
        """
        If a person declines the request, it is refused, and its key is free.
        """
        self.link.losesRequest.append(APPROVE)
        reserved = self.request(operation(key="k"))
        self.platform.carryOut(DECLINE, {"order": 5001})
        self.wait(4)
        durable = self.successResultOf(reserved).whenDurable()
        self.wait(10)
        why = self.failureResultOf(durable, Refusal).value
        self.assertEqual((why.status, why.error), (409, "PLATFORM_REFUSED"))
        self.assertIsNone(self.successResultOf(self.gateway.operation(7, "k")))

    def test_approvedByAPerson(self) -> None:
        """
        If a person approves the request before its order is known here, that is it, and
        none is made again.
        """
        self.link.losesReply.append(CREATE)
        reserved = self.request(operation())
        self.platform.carryOut(APPROVE, {"order": 5001})
        self.platform.work()
        self.wait(13)
        self.assertEqual(self.successResultOf(reserved).order, 5001)
        self.assertEqual(self.events(), [(ADD, 5001, BOOKED, 300)])
        self.assertEqual(self.steps().count(CREATE), 1)
        self.assertEqual(self.states(), [])

    def test_approvedByAPersonWhileAway(self) -> None:
        """
        The same goes for one that a person approves while the gateway does not run.
        """
        self.link.losesReply.append(CREATE)
        self.request(operation(key="k"))
        self.kill()
        self.platform.carryOut(APPROVE, {"order": 5001})
        self.begin()
        self.wait(5)
        self.platform.work()
        self.turn()
        self.assertEqual(self.money(), [(5001, 1001, 300)])
        self.assertEqual(self.events(), [(ADD, 5001, BOOKED, 300)])

    def test_approvedByAPersonAfterTheLook(self) -> None:
        """
        If another request is made before the approval of the first one shows, the other
        one is not approved.
        """
        self.link.losesReply.append(CREATE)
        self.platform.hides.add(17)
        self.request(operation())
        self.wait(11.5)
        self.link.isAutomatic = False
        self.wait(1)
        while self.platform.nextOrder == 5002:
            self.link.deliverReply()
            self.turn()
            self.link.deliverRequest()
        self.platform.hides.clear()
        self.platform.carryOut(APPROVE, {"order": 5001})
        self.platform.work()
        self.link.deliverEvent()
        self.link.isAutomatic = True
        self.link.deliverReply()
        self.wait(65)
        self.assertEqual(self.money(), [(5001, 1001, 300)])
        self.assertEqual(self.platform.trades[5002]["state"], 18)
        self.assertEqual((self.states(), self.alarms), ([], []))

    def test_approvedAndChangedByAPerson(self) -> None:
        """
        If a person has approved and changed it while the gateway did not run, it is
        held: to make it again might book it twice. A person can decide either way.
        """
        for number, changed in ((1, {}), (2, {"comment": "another"})):
            order, login = 5000 + number, 1000 + number
            self.link.losesReply.append(CREATE)
            self.request(operation(login=login))
            self.kill()
            self.platform.carryOut(APPROVE, {"order": order})
            self.platform.work()
            self.platform.change(order, profit=number, **changed)
            self.begin()
            self.wait(40)
            self.assertEqual(self.only().state.value, "held")
            self.assertIn(f"changed it: {order}", self.only().why)
            resolved = self.gateway.resolve(number, order if number == 1 else None, 1)
            self.turn()
            self.successResultOf(resolved)
        self.assertEqual(self.steps().count(CREATE), 2)
        self.assertEqual(self.money(), [(5001, 1001, 1), (5002, 1002, 2)])
        self.assertEqual(
            self.events(), [(ADD, 5001, BOOKED, 1), (ADD, 5002, BOOKED, 2)]
        )

    def test_olderIsNotIts(self) -> None:
        """
        A trade of the same account, kind and time that was there before the operation
        was sent is not what a person has made of it.
        """
        self.platform.person(1001, 7, 50, open_time=NOW - 5, close_time=NOW - 5)
        self.wait(200)
        self.link.losesRequest.append(CREATE)
        self.request(operation(openTime=NOW - 5))
        self.wait(15)
        self.platform.work()
        self.turn()
        self.assertEqual((self.states(), self.alarms), ([], []))
        self.assertEqual(self.money(), [(5002, 1001, 300)])

    def test_declinedWithoutItsOrder(self) -> None:
        """
        If a person declines the request before its order is known here, it is refused,
        and none is made again.
        """
        self.link.losesReply.append(CREATE)
        reserved = self.request(operation())
        self.platform.carryOut(DECLINE, {"order": 5001})
        self.wait(13)
        why = self.refusalOf(reserved)
        self.assertEqual((why.status, why.error), (409, "PLATFORM_REFUSED"))
        self.assertEqual((self.steps().count(CREATE), self.states()), (1, []))

    def test_toldOnce(self) -> None:
        """
        If nothing comes of an approval for two minutes, people are told, once, and it
        is tried further.
        """
        self.link.losesRequest += [APPROVE] * 20
        self.request(operation())
        self.wait(200)
        [alarm] = self.alarms
        self.assertIn("seconds: its approval is not accepted (no reply", alarm)
        self.alarms.clear()
        self.link.losesRequest.clear()
        self.wait(20)
        self.platform.work()
        self.turn()
        self.assertEqual((self.states(), self.alarms), ([], []))

    def test_severalApproved(self) -> None:
        """
        If people have approved several that were made for one operation, it is held,
        once, and none is made again.
        """
        self.link.losesReply.append(CREATE)
        reserved = self.request(operation())
        twin = {**self.platform.trades[5001], "order": 5002}
        self.platform.trades[5002] = twin
        for order in (5001, 5002):
            self.platform.carryOut(APPROVE, {"order": order})
        self.platform.work()
        self.wait(70)
        self.failureResultOf(reserved, OutcomeUnknown)
        self.assertEqual((self.states(), len(self.alarms)), (["held"], 1))
        self.assertEqual(self.steps().count(CREATE), 1)

    def test_deletedByAPerson(self) -> None:
        """
        If a person deletes the request, nothing tells whether it was booked before. So
        it is held, and nothing is published.
        """
        for lost, order in ((APPROVE, 5001), (CREATE, 5002)):
            lose = self.link.losesRequest if lost == APPROVE else self.link.losesReply
            lose.append(lost)
            login = order - 4000
            self.request(operation(login=login, key=lost))
            self.platform.change(order, state=6)
            self.wait(15)
            found = self.successResultOf(self.gateway.operation(7, lost))
            assert isinstance(found, dict)
            self.assertIs(found["held"], True)
        self.assertEqual(self.events(), [])
        self.assertEqual(self.steps(), [CREATE, CREATE])
        for number, order in ((1, None), (2, 5002)):
            resolved = self.gateway.resolve(number, order, 1)
            self.turn()
            self.successResultOf(resolved)
        self.assertEqual(self.states(), [])

    def test_timeout(self) -> None:
        """
        Before a client gives up, it is told the order, if there is one.
        """
        self.link.losesRequest.append(APPROVE)
        reserved = self.request(operation())
        self.wait(3.5)
        self.assertNoResult(reserved)
        self.wait(1)
        self.assertEqual(self.successResultOf(reserved).order, 5001)

    def test_restart(self) -> None:
        """
        After a restart, what has no order is made again, and what has one is approved
        again.
        """
        for lost in (CREATE, APPROVE):
            self.link.losesRequest.append(lost)
            self.request(operation(key=lost))
            self.kill()
            self.begin()
            self.platform.work()
            self.turn()
            self.wait(3)
        self.assertEqual(self.money(), [(5001, 1001, 300), (5002, 1001, 300)])
        self.assertEqual(self.states(), [])

    def test_lateCreation(self) -> None:
        """
        A reply that comes late, when another request is the chosen one, is no matter.
        """
        self.link.isAutomatic = False
        self.request(operation())
        self.link.deliverRequest()
        self.link.isAutomatic = True
        self.wait(12.5)
        self.link.deliverReply()
        self.turn()
        self.platform.work()
        self.wait(60)
        self.assertEqual(self.money(), [(5001, 1001, 300)])
        self.assertEqual(self.pending(), [])

    def test_lateCreationSettled(self) -> None:
        """
        If the operation was made again and is booked by then, the request that the late
        reply names is declined at once, and nobody need know.
        """
        self.platform.hides.add(17)
        self.link.isAutomatic = False
        self.request(operation())
        self.link.deliverRequest()
        self.link.isAutomatic = True
        self.wait(24)
        self.platform.work()
        self.turn()
        self.assertEqual((self.states(), self.pending()), ([], [5001]))
        self.link.deliverReply()
        self.turn()
        self.assertEqual(self.platform.trades[5001]["state"], 18)
        self.assertEqual(self.alarms, [])
        self.assertEqual(self.money(), [(5002, 1001, 300)])

    def test_neverMade(self) -> None:
        """
        If no finance request can be made for two minutes, people are told, and it is
        tried less often, until one is made.
        """
        self.link.losesRequest.extend([CREATE] * 20)
        self.request(operation())
        self.wait(160)
        self.assertEqual(self.states(), ["held"])
        self.assertEqual(
            self.alarms, ["operation 1 of account 1001 is held: no reply in time"]
        )
        sent = len(self.link.sent)
        self.wait(60)
        again = [each.command for each in self.link.sent[sent:]].count(CREATE)
        self.assertEqual(again, 2)
        self.link.losesRequest.clear()
        self.wait(31)
        self.platform.work()
        self.turn()
        self.assertEqual((self.states(), self.money()), ([], [(5001, 1001, 300)]))

    def test_notMadeAtOnce(self) -> None:
        """
        The time without a connection does not count.
        """
        self.link.losesRequest.extend([CREATE] * 3)
        self.request(operation())
        self.link.cut()
        self.wait(200)
        self.link.connect()
        self.wait(15)
        self.assertEqual((self.states(), self.alarms), (["sent"], []))

    def test_refusedAndGone(self) -> None:
        """
        What is held after its approval was refused is looked up as often as anything
        that is held.
        """
        self.link.isAutomatic = False
        self.request(operation())
        self.link.deliverRequest()
        self.link.deliverReply()
        self.turn()
        self.platform.trades.clear()
        self.link.isAutomatic = True
        self.link.deliverRequest()
        self.wait(150)
        self.assertEqual(self.states(), ["held"])
        sent = len(self.link.sent)
        self.wait(60)
        looks = [each.command for each in self.link.sent[sent:]]
        self.assertEqual(looks.count("GetTradeByOrder"), 2)

    def test_sweepFails(self) -> None:
        """
        If a sweep fails, the next one declines what was made in vain.
        """
        self.platform.hides.add(17)
        self.link.losesReply.append(CREATE)
        self.request(operation())
        self.wait(24)
        self.platform.hides.clear()
        self.patch(self.gateway.operations, "_isLeftover", lambda trade: 1 / 0)
        self.wait(61)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        del self.gateway.operations._isLeftover
        self.wait(61)
        self.assertEqual(self.platform.trades[5001]["state"], 18)
        self.assertEqual(self.pending(), [])

    def test_lateNonsense(self) -> None:
        """
        A late reply that names what can't have been made in vain is an alarm.
        """
        self.request(operation())
        self.platform.work()
        order = self.platform.person(1001, 7, 100, state=17)
        self.platform.trades[order]["state"] = 17
        self.turn()
        for late in (order, 5001, 4999):
            self.gateway.repliedLate(1, Outcome(Kind.DONE, {"order": late}))
            self.turn()
        self.assertEqual(
            self.alarms,
            [
                f"a late reply names order {late} for operation 1, which was settled"
                " otherwise"
                for late in (order, 4999)
            ],
        )
        self.assertEqual(self.pending(), [order])

    def test_seenPending(self) -> None:
        """
        If the platform broadcasts requests, one whose reply is lost is found by that.
        """
        self.platform.showsEarly = True
        self.link.isAutomatic = False
        reserved = self.request(operation())
        self.link.deliverRequest()
        self.link.replies.clear()
        self.wait(10)
        self.link.deliverEvent()
        self.link.isAutomatic = True
        self.turn()
        self.assertEqual(self.successResultOf(reserved).order, 5001)
        self.wait(5)
        self.assertEqual(self.steps(), [CREATE, APPROVE])
