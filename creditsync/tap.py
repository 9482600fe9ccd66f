"""
What C{twistd} asks for: the options of the server, and the service that they
stand for.

The rest of the process is in L{creditsync._process}. To run the server as a part
of another Twisted application, see L{creditsync.service}.
"""

import time

from twisted.logger import Logger

from creditsync._process import signals
from creditsync._process.composition import (
    authenticator,
    creditSync,
    describeRights,
    web,
)
from creditsync._process.keys import keyPath, makeKey
from creditsync._process.notify import Supervisor
from creditsync._process.options import Options as Options
from creditsync._process.server import Server, SupervisedServer
from creditsync._process.settling import settleProcess
from creditsync.counters import Counters

_log = Logger()


def makeService(options: Options) -> Server:
    """
    Make the server for a process of its own.
    """
    from twisted.internet import reactor

    signals.prepareServer()
    settleProcess(reactor)
    key = options["secret"] or makeKey(keyPath(options["key"]))
    counters = None if options["web"] is None else Counters(reactor, time.time)
    service = creditSync(reactor, options, key, counters)
    _log.info("Tokens: {tokens}.", tokens=authenticator(options, key).describe())
    _log.info("Rights: {rights}.", rights=describeRights(options))
    reloads = [service.reload]
    files = (options["revocations"], options["keys"], options["rules"])
    reloads += [file.reload for file in files if file is not None]
    server = SupervisedServer(reactor, service, Supervisor(reactor), reloads)
    if counters is not None:
        server.web = web(reactor, options, service, counters, key)
        reloads.append(server.web.reload)
    return server
