"""
The synchronous credit server: C{CreditInSync} and its family on Twisted.

A request's TCP session stays open until the trading runtime broadcasts the
matching C{trade:event}; the reply is that event's data.
"""

__version__ = "0.1.0"
