"""
The servers that are measured side by side, each in a file of its own.

All of them accept the same requests and send the same events and replies, byte
for byte except for numbers, times and cursors; all but the canned ones also do the
same work: parse, check the token, validate, assign an order number, keep a waiter
and a timer, and commit to disk.
"""
