"""
The server under load that nobody would wish for: readers that don't read, ten
times what it can do, stops in the middle of it, and a wall clock that steps.

Real server processes on loopback. Every client keeps a record
(L{tests.load.record}) of what it asked for and of what it was told, and in the
end the record is held against the ledger.
"""
