"""
C{creditsync serve}: runs the server in the foreground.

It is C{twistd --nodaemon --pidfile= creditsync} by another name. It also works in
a bare checkout, where C{twistd} doesn't find the plugin.
"""

import sys
from collections.abc import Sequence
from typing import NoReturn

from twisted.application.service import ServiceMaker
from twisted.python.usage import UsageError
from twisted.scripts import twistd

from creditsync._process.options import Options
from creditsync._process.starting import CannotStart


class _TwistdOptions(twistd.ServerOptions):  # type: ignore[name-defined,misc]
    """
    The command line of a C{twistd} whose only plugin is this server.
    """

    synopsis = "Usage: creditsync"
    subCommands = (("serve", None, Options, "Run the server."),)
    loadedPlugins = {  # noqa: RUF012 - as ServerOptions has it
        "serve": ServiceMaker("creditsync", "creditsync.tap", "", "creditsync")
    }


def run(arguments: Sequence[str]) -> None:
    """
    Serve until a signal comes.

    @param arguments: Options of the server, L{Options}.
    """
    config = _TwistdOptions()
    try:
        config.parseOptions(["--nodaemon", "--pidfile=", "serve", *arguments])
    except UsageError as e:
        _end(e, 2)
    try:
        twistd.runApp(config)
    except CannotStart as e:
        _end(e, 1)


def _end(why: BaseException, status: int) -> NoReturn:
    # twistd has redirected sys.stderr to its log.
    print(f"creditsync serve: {why}", file=sys.__stderr__)
    sys.exit(status)
