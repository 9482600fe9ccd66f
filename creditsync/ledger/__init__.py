"""
The durable record of finance trades and account totals.

L{creditsync.ledger.sqlite} keeps it in an SQLite file. A server uses this one,
with a thread of L{creditsync.ledger.thread} that waits for the disk.
L{creditsync.ledger.memory} keeps it in dictionaries, for tests, embedding and
benchmarks. Both provide L{ILedger <creditsync.interfaces.ILedger>}.

The commands open the file read-only: L{creditsync.ledger._reading} reads its
content, L{creditsync.ledger._checking} proves that it is sound, and
L{creditsync.ledger._copying} copies it. C{docs/ledger.rst} describes the tables for
users of SQL.
"""
