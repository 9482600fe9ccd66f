"""
The exit statuses of the commands.
"""

from typing import Final

DONE: Final = 0
FAILED: Final = 1
USAGE: Final = 2
REFUSED: Final = 3
UNKNOWN: Final = 4
INTERRUPTED: Final = 130

# For the help of the commands that talk to a server.
STATUSES: Final = """\
exit status:
  0    done
  1    the server could not be reached, or something else went wrong; nothing
       has happened
  2    the command line is wrong
  3    refused by the server: nothing has happened
  4    the outcome is unknown: it may be booked; the order, if known, and the key
       to look it up with are printed
  130  interrupted before anything was sent

Once the server has answered, the status is that of the answer, whatever fails
afterwards: neither a signal nor an answer that can't be printed changes it.
"""
