"""
The contract of C{docs/protocol.rst} as JSON Schema 2020-12: one file for each thing
that travels, and the only copy of it.

C{common.json} defines the members that several of the others have.
"""
