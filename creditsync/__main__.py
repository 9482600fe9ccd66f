"""
C{creditsync}, which is C{python -m creditsync} too.
"""

import sys
from argparse import ArgumentParser, RawDescriptionHelpFormatter

from creditsync import __version__
from creditsync._cli.output import (
    escapeCharacters,
    occupyDescriptors,
    printing,
    replaceClosedStreams,
)
from creditsync._process import signals

_EPILOG = """\
without a command, or with options of the server only, it serves:

  creditsync demo                             see one credit come and go
  creditsync --listen tcp:8080 --timeout 3    the same as creditsync serve ...
  creditsync token --id 7 --role manager      a token for a manager

creditsync COMMAND --help says more.
"""


def main() -> None:
    """
    Run what the command line asks for.
    """
    occupyDescriptors()
    escapeCharacters()
    arguments = sys.argv[1:]
    ours = ("-h", "--help", "--version")
    if not arguments or (arguments[0].startswith("-") and arguments[0] not in ours):
        arguments.insert(0, "serve")
    if arguments[0] == "serve":
        return _serve(arguments[1:])
    signals.prepare()
    replaceClosedStreams()
    with printing(arguments[0]):
        if arguments[0] == "check-config":
            from creditsync._cli import check_config

            return check_config.run(arguments[1:])
        options = _parser().parse_args(arguments)
        return options.run(options)  # type: ignore[no-any-return]


def _serve(arguments: list[str]) -> None:
    # Before the imports, which take longer than all else that comes before the
    # ledger.
    signals.prepareServer()
    from creditsync._cli import serve

    serve.run(arguments)


def _parser() -> ArgumentParser:
    """
    The command line, but for C{serve} and C{check-config}, whose options are
    C{twistd}'s kind.
    """
    from creditsync._cli import (
        account,
        backup,
        bulk,
        check,
        demo,
        export,
        operations,
        statement,
        token,
        watch,
    )

    parser = ArgumentParser(
        "creditsync",
        description="Synchronous credit-in for trading platforms.",
        epilog=_EPILOG,
        formatter_class=RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND", title="commands")
    commands.add_parser("serve", help="run the server in the foreground")
    commands.add_parser("check-config", help="see what the server would use")
    reading = (statement, check, backup, export)
    for module in (token, account, operations, watch, bulk, *reading, demo):
        module.addCommand(commands)
    return parser


if __name__ == "__main__":
    main()
