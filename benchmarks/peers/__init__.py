"""
The servers that are measured side by side, each in a file of its own.

All of them take the same requests and give the same events and replies, byte
for byte but for numbers and times; those that think also do the same work:
parse, know the token, validate, give an order number, keep a waiter and a timer,
and commit with the disk's word for it.
"""
