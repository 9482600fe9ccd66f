"""
The former name of L{creditsync.counters}.
"""

from incremental import Version
from twisted.python.deprecate import deprecatedModuleAttribute

from creditsync.counters import Counters as Tally

__all__ = ["Tally"]

deprecatedModuleAttribute(
    Version("creditsync", 0, 2, 0),
    "Use creditsync.counters.Counters instead.",
    __name__,
    "Tally",
)
