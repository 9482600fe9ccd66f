"""
Hostile input: what any client may send, and what must not happen.

Seven commands, each sound or not: C{waiters} (a state machine over the replies
that wait), C{fuzz} (lines mutated under the guidance of coverage), C{paths} (the
fast path of a line against the long one), C{json_corpus} (what is I-JSON and what
is not), C{tokens} (bad ones, each of its kind, and mutated good ones), C{filters}
(mutated filters and other look-ups against a plain reference) and C{floods} (a real
server under attack while an innocent session is served).

Except for C{paths}, every judge in here is written from C{docs/protocol.rst} and not
from the code that it judges.
"""
