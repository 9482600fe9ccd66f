"""
Many servers on one PostgreSQL that act as one: the engine judges and books.

L{creditsync.postgres._runtime} is the trading runtime. It collects what is submitted
into batches, and each batch is one call of the function in C{book.sql}, which is one
transaction (L{creditsync.postgres._booking}). What the other nodes have booked is read
from the journal (L{creditsync.postgres._feed}).
"""
