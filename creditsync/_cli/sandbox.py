"""
C{creditsync sandbox}: runs the sandbox in the foreground (docs/sandbox.rst).
"""

from collections.abc import Sequence

from twisted.application.service import ServiceMaker

from creditsync._cli import serve
from creditsync._process.sandbox import Options


class _TwistdOptions(serve.TwistdOptions):
    """
    The command line of a C{twistd} whose only plugin is the sandbox.
    """

    subCommands = (("sandbox", None, Options, "Run the sandbox."),)
    loadedPlugins = {  # noqa: RUF012 - as ServerOptions has it
        "sandbox": ServiceMaker("sandbox", "creditsync._process.sandbox", "", "sandbox")
    }


def run(arguments: Sequence[str]) -> None:
    """
    Be a platform until a signal comes.

    @param arguments: L{Options}.
    """
    serve.runTwistd(_TwistdOptions(), "sandbox", arguments)
