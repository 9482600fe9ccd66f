"""
C{creditsync bulk}: many operations from a CSV file, each booked once.

The file is checked as a whole (L{checking <creditsync._cli.bulk.checking>}) and
then booked, a bounded number of rows at a time (L{sending
<creditsync._cli.bulk.sending>}). The outcome of each row goes to a results file as
it becomes known (L{results <creditsync._cli.bulk.results>}), from which the next
run of the same file takes what is left to do. That only saves time: what makes a
second run safe is the idempotency key of each row (L{rows
<creditsync._cli.bulk.rows>}). A row whose result was never written is a replay.
"""
