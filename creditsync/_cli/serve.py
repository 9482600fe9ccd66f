"""
C{creditsync serve}: runs the server in the foreground.

It is C{twistd --nodaemon --pidfile= creditsync} by another name. It also works in
a bare checkout, where C{twistd} doesn't find the plugin.
"""

import sys
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, NoReturn

from twisted.application.service import ServiceMaker
from twisted.python.usage import UsageError
from twisted.scripts import twistd

from creditsync._cli.output import outputErrorsAsExit
from creditsync._process.options import Options
from creditsync._process.starting import CannotStart


class TwistdOptions(twistd.ServerOptions):  # type: ignore[name-defined,misc]
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
    runTwistd(TwistdOptions(), "serve", arguments)


def runTwistd(config: Any, name: str, arguments: Sequence[str]) -> None:
    """
    Run the plugin of a C{twistd} in the foreground.

    @param config: Its command line.
    @param name: The name of the subcommand, for C{twistd} and for ours.
    @param arguments: The options of the plugin.
    """
    # --help and --version print something. A server whose stdout a shell has closed is
    # to start all the same.
    isClosed = sys.stdout is None
    try:
        with nullcontext() if isClosed else outputErrorsAsExit(name):
            config.parseOptions(["--nodaemon", "--pidfile=", name, *arguments])
    except UsageError as e:
        _end(name, e, 2)
    try:
        twistd.runApp(config)
    except CannotStart as e:
        _end(name, e, 1)


def _end(name: str, why: BaseException, status: int) -> NoReturn:
    # twistd has redirected sys.stderr to its log.
    print(f"creditsync {name}: {why}", file=sys.__stderr__)
    sys.exit(status)
