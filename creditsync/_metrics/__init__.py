"""
What L{creditsync.metrics} exports: the table of metrics, and the readings of the
server that its rows are made from.
"""
