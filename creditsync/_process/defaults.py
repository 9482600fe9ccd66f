"""
What a process uses where neither its command line nor a file says otherwise.
"""

from typing import Final

DEFAULT_LISTEN: Final = "tcp:8080:interface=127.0.0.1"
DEFAULT_LEDGER: Final = "creditsync.db"
DEFAULT_KEY: Final = "creditsync.key"

# The environment variable that is the key itself, and not the name of its file.
KEY_VARIABLE: Final = "CREDITSYNC_KEY"
