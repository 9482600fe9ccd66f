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


def run(arguments: Sequence[str]) -> None:
    """
    Serve until a signal comes.

    @param arguments: Options of the server, L{Options}.
    """
    maker = ServiceMaker("creditsync", "creditsync.tap", "", "creditsync")
    runService("serve", "Run the server.", Options, maker, arguments)


def runService(
    name: str,
    help: str,
    options: type[Options],
    maker: ServiceMaker,
    arguments: Sequence[str],
) -> None:
    """
    Run a service in the foreground, as a subcommand.

    @param arguments: Its options.
    """

    class TwistdOptions(twistd.ServerOptions):  # type: ignore[name-defined,misc]
        """
        The command line of a C{twistd} whose only plugin is this.
        """

        synopsis = "Usage: creditsync"
        subCommands = ((name, None, options, help),)
        loadedPlugins = {name: maker}  # noqa: RUF012 - as ServerOptions has it

    config = TwistdOptions()
    try:
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
