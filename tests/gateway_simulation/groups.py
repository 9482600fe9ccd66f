"""
The judge of what a token sees that is for some groups of accounts, where the platform's
groups count.
"""

from math import inf

from attrs import define

from creditsync.ledger.memory import MemoryLedger
from tests.gateway_simulation.clients import Follower
from tests.gateway_simulation.platform import Platform
from tests.gateway_simulation.setting import FRESH, GROUPS
from tests.gateway_simulation.verdicts import SOON, broken


@define(eq=False)
class Groups:
    """
    Judges the groups of one seed.

    @ivar journal: The gateway's ledger.
    @ivar follower: It sees all accounts.
    @ivar isHarmless: Whether nothing does harm.
    """

    platform: Platform
    journal: MemoryLedger
    follower: Follower
    isHarmless: bool

    def judge(self, restricted: list[Follower]) -> None:
        """
        A token that is for some groups sees nothing of other accounts, and in the end
        all of those whose groups are known; at once if nothing does harm.

        @param restricted: What the token saw always, and twice in the end.
        @raise Violation: A rule is broken.
        """
        groups = {login: self.journal._groups.get(login, "") for login in GROUPS}
        for login, group in groups.items():
            if group not in ("", self.platform.ledger._groups[login]):
                raise broken("groups", f"account {login} is in {group}", str(login))
        for each in restricted:
            for place, _, data in each.events:
                had = self.platform.groups[data["login"]]
                if not any(_isShown(group) for _, group in had):
                    raise broken("groups", f"event {place} is shown", str(place))
        want = [
            each.place
            for each in self.journal.events(0, self.journal.head)
            if _isShown(groups[each.data.login])
        ]
        always, _, last = (
            [place for place, _, _ in each.events] for each in restricted
        )
        if last != want:
            raise broken("groups", f"in the end it sees {last}, not {want}")
        if not self.isHarmless:
            return
        if any(len(had) > 1 for had in self.platform.groups.values()):
            self._inTime(set(always))
        elif always != want:
            raise broken("groups", f"it is shown {always}, not {want}")

    def _inTime(self, shown: set[int]) -> None:
        """
        Whether an event was shown goes by a group that its account had lately.
        """
        for time, (place, _, data) in zip(
            self.follower.times, self.follower.events, strict=True
        ):
            had = self.platform.groups[data["login"]]
            ends = [at for at, _ in had[1:]] + [inf]
            lately = {
                _isShown(group)
                for (since, group), until in zip(had, ends, strict=True)
                if since <= time and until >= time - FRESH - SOON
            }
            if (place in shown) not in lately:
                text = f"event {place} of {time} goes by none of {had}"
                raise broken("groups", text, str(data["order"]))


def _isShown(group: str) -> bool:
    """
    Whether the token is for this group.
    """
    return group.startswith("real")
