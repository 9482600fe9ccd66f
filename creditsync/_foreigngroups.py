"""
Groups of accounts that are not only changed by this server, so that it has to learn
them.
"""

from twisted.internet.defer import Deferred

from creditsync._besides import IAccountGroups


class ILearnedGroups(IAccountGroups):
    """
    Groups of accounts that are changed elsewhere too, by other servers or another
    system.
    """

    def whenKnown(login: int) -> "Deferred[object] | None":
        """
        Wait until it is known which group an account is in now, if it is in any. If
        that can't be found out, what was known before counts.

        @return: Fires then, or fails with L{Busy<creditsync.errors.Busy>} if nothing is
            known. L{None} if there is nothing to wait for.
        """


class IForeignGroups(ILearnedGroups):
    """
    The groups of accounts of another system. An account without a group is one whose
    group is not known: no mask selects it. Look-ups go by what is known, as that system
    would take too long to answer.
    """
