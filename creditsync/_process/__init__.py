"""
The server as a process of its own: its options and the file that may hold them,
its key file, its signals, its supervisor, and how it is put together and ends.

Nothing in here is needed to run the server as a part of another Twisted
application, see L{creditsync.service}.
"""
