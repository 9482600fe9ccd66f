"""
A whole server in a simulated world, driven by one random number generator.

The server's own code runs here, from the protocol to SQLite, but its clock,
its network, its disk and its clients are simulated: so one number, the seed,
decides all that happens, and gives the same history whenever it is used again.

L{tests.simulation.world} is time. L{tests.simulation.network},
L{tests.simulation.storage}, L{tests.simulation.foreign} and
L{tests.simulation.clients} are what the server meets, and where the faults
come from; L{tests.simulation.site} puts a server among them, again after each
crash. L{tests.simulation.history} is what was seen from outside, and
L{tests.simulation.course} with its rules holds that against
C{docs/protocol.rst}. L{tests.simulation.running} is one seed.
"""
