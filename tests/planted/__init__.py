"""
Bugs that are planted on purpose, and the suites that must find them.

A suite that has never found a bug proves nothing. Each row of
L{tests.planted.bugs} breaks one promise of the server by a patch that only
this package makes; C{python -m tests.planted} runs the suite that must find
it.
"""
