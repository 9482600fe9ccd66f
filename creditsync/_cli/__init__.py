"""
The C{creditsync} command, for people. Each subcommand has a module with its
options and the function that runs it; C{creditsync bulk} has a package.

The other modules have what several subcommands share: L{creditsync._cli.arguments
<arguments>} the types of arguments, L{connection <creditsync._cli.connection>}
what talks to a server, L{ledger <creditsync._cli.ledger>} what opens a ledger, and
L{statuses <creditsync._cli.statuses>} the exit statuses.

An error is one sentence on stderr: with status 2 if the command line is wrong,
else with status 1 or one that L{statuses <creditsync._cli.statuses>} has.
"""
