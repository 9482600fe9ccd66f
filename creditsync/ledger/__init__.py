"""
The durable record of finance trades and account totals.

L{creditsync.ledger.sqlite} keeps it in an SQLite file and is what a server
runs on, with a thread of L{creditsync.ledger.thread} that waits for the disk;
L{creditsync.ledger.memory} keeps it in dictionaries, for tests, embedding and
benchmarks. Both provide L{ILedger <creditsync.interfaces.ILedger>}.

Others open the file read-only: L{creditsync.ledger._reading} tells what is in
it, L{creditsync.ledger._checking} whether it is sound, and
L{creditsync.ledger._copying} makes a copy of it. C{docs/ledger.rst} is for those
who read the file with SQL.
"""
