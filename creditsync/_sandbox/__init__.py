"""
The sandbox: a trading platform that only accepts and broadcasts, for the tests of
those who integrate with one (docs/sandbox.rst).

It is this server with a layer around it. L{creditsync._sandbox.booking} makes the
trading runtime accept first and book later, L{creditsync._sandbox.connection} stands
between the transport and each connection, and sees every line, and
L{creditsync._sandbox.service} can end all of it as a crash would, and begin anew.
What goes wrong, and when, is decided by one L{Script
<creditsync._sandbox.script.Script>}, whose faults are the rows of
L{creditsync._sandbox.table}. Nothing here uses a clock or randomness but those that it
is given.
"""
