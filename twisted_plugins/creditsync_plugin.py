"""
The drop-in by which C{twistd} finds the server. It names a module by string,
so that listing the plugins imports nothing of ours.
"""

from twisted.application.service import ServiceMaker

creditsync = ServiceMaker(
    "creditsync",
    "creditsync.tap",
    "Synchronous credit-in for trading platforms.",
    "creditsync",
)
