"""
A simulator of the gateway: it stands in memory in front of the sandbox in memory, and
everything that can go wrong between the two does.

Time, the network, the disk, the clients and all faults are driven by one seed
(L{tests.simulation.world}). The gateway and the sandbox are the real ones, from the
lines of a client to the lines of the platform; each is a process that can be killed at
any moment, and that leaves nothing but what is on its disk. L{judge
<tests.gateway_simulation.judge>} knows nothing of the gateway: it compares what the
platform's ledger has, what clients were told, and what the gateway's ledger has.
"""
