"""
What a gateway needs of its connection to the platform, and what it hears by it.
"""

from collections.abc import Mapping
from typing import Any

from twisted.internet.defer import Deferred
from zope.interface import Attribute, Interface

from creditsync.gateway._figures import Figures
from creditsync.gateway._outcomes import Outcome


class IUpstreamObserver(Interface):
    """
    What hears of the connection to the platform.
    """

    def connected() -> None:
        """
        The platform has accepted the token: requests can be sent, and events come. Of
        those of the time before some may be missing.
        """

    def interrupted() -> None:
        """
        Events don't come any more.
        """

    def eventReceived(type: int, data: Mapping[str, Any]) -> None:
        """
        A trade event.
        """

    def repliedLate(tag: object, outcome: Outcome) -> None:
        """
        A reply has come for which nobody waited any more.

        @param tag: That of the request.
        """


class IUpstream(Interface):
    """
    The connection to a platform.
    """

    isConnected: bool = Attribute("Whether requests can be sent now.")
    problem: str = Attribute("Why not, for people.")
    figures: "Figures" = Attribute("What it counts.")

    def start(observer: IUpstreamObserver) -> None:
        """
        Connect, and connect again whenever the connection is lost.
        """

    def stop() -> "Deferred[None]":
        """
        Disconnect. The outcome of requests in flight is unknown then.
        """

    def renew(why: str) -> None:
        """
        Connect again, with the token that its file has then, as soon as nothing is in
        flight.

        @param why: For the log.
        """

    def request(
        command: str, data: Mapping[str, Any], tag: object = None
    ) -> "Deferred[Outcome]":
        """
        Send a request, once.

        @param tag: Identifies it if its reply comes late.
        @return: Fires with what is known of it; never fails.
        """
