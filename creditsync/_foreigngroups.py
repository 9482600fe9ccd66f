"""
Groups of accounts that another system keeps, and that have to be learned from it.
"""

from twisted.internet.defer import Deferred

from creditsync.interfaces import IAccountGroups


class IForeignGroups(IAccountGroups):
    """
    The groups of accounts of another system. An account without a group is one whose
    group is not known: no mask selects it.
    """

    def whenKnown(login: int) -> "Deferred[object] | None":
        """
        Wait until it is known which group an account is in now, if it is in any. If
        that can't be found out, what was known before counts.

        @return: Fires then, or fails with L{Busy<creditsync.errors.Busy>} if nothing is
            known. L{None} if there is nothing to wait for.
        """
