"""
The C{creditsync} command, which is also C{python -m creditsync}.
"""

import sys
from argparse import ArgumentParser, RawDescriptionHelpFormatter

from creditsync import __version__
from creditsync._cli.output import (
    escapeUnencodable,
    occupyDescriptors,
    outputErrorsAsExit,
    replaceClosedStreams,
)
from creditsync._process import signals

_EPILOG = """\
without a command, or with options of the server only, it runs the server:

  creditsync demo                             try the server with one credit
  creditsync --listen tcp:8080 --timeout 3    the same as creditsync serve ...
  creditsync token --id 7 --role manager      a token for a manager

See creditsync COMMAND --help for the options of a command.
"""


def main() -> None:
    """
    Run the command line.
    """
    occupyDescriptors()
    escapeUnencodable()
    arguments = sys.argv[1:]
    ours = ("-h", "--help", "--version")
    if not arguments or (arguments[0].startswith("-") and arguments[0] not in ours):
        arguments.insert(0, "serve")
    if arguments[0] in ("serve", "sandbox"):
        return _serve(arguments[0], arguments[1:])
    signals.prepare()
    replaceClosedStreams()
    with outputErrorsAsExit(arguments[0]):
        if arguments[0] == "check-config":
            from creditsync._cli import check_config

            return check_config.run(arguments[1:])
        options = _parser().parse_args(arguments)
        return options.run(options)  # type: ignore[no-any-return]


def _serve(command: str, arguments: list[str]) -> None:
    # Before the imports, which take most of the time until the ledger is opened.
    signals.prepareServer()
    if command == "sandbox":
        from creditsync._cli import sandbox

        return sandbox.run(arguments)
    from creditsync._cli import serve

    serve.run(arguments)


def _parser() -> ArgumentParser:
    """
    The parser of the commands. C{serve}, C{sandbox} and C{check-config} are only
    listed: they parse their options as C{twistd} does.
    """
    from creditsync._cli import (
        account,
        backup,
        call,
        check,
        demo,
        export,
        gateway,
        operations,
        postgres,
        requests,
        show,
        statement,
        token,
        upgrade,
        watch,
    )
    from creditsync._cli.bulk import command as bulk

    parser = ArgumentParser(
        "creditsync",
        description="Synchronous credit-in for trading platforms.",
        epilog=_EPILOG,
        formatter_class=RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND", title="commands")
    commands.add_parser("serve", help="run the server in the foreground")
    commands.add_parser(
        "check-config", help="check the options that the server would have"
    )
    commands.add_parser("sandbox", help="be a trading platform, for tests")
    reading = (statement, check, backup, export, upgrade)
    for module in (
        *(token, account, operations, requests, show, call, watch, bulk),
        *(*reading, gateway, postgres, demo),
    ):
        module.addCommand(commands)
    return parser


if __name__ == "__main__":
    main()
