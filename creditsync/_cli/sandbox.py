"""
C{creditsync sandbox}: runs the sandbox in the foreground (docs/sandbox.rst).
"""

from collections.abc import Sequence

from twisted.application.service import ServiceMaker

from creditsync._cli import serve
from creditsync._process.sandbox import Options


def run(arguments: Sequence[str]) -> None:
    """
    Be a platform until a signal comes.

    @param arguments: L{Options}.
    """
    maker = ServiceMaker("sandbox", "creditsync._process.sandbox", "", "sandbox")
    serve.runService("sandbox", "Run the sandbox.", Options, maker, arguments)
