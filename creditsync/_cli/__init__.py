"""
The C{creditsync} command, for people: one module for each subcommand, each
with the options it takes and the function that runs it.

What goes wrong is told in one sentence on stderr: with status 2 if the
command line was wrong, else with status 1.
"""
