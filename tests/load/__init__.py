"""
The server under extreme load: readers that don't read, expensive filters, ten times
what it can handle, stops in the middle of work, and a wall clock that steps.

Real server processes on loopback. Every client keeps a record
(L{tests.load.record}) of its requests and replies, and in the end the record
is compared with the ledger.
"""
