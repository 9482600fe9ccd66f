"""
The gateway: this server in front of another platform, which books (docs/gateway.rst).

The platform accepts an operation, books it later and broadcasts it; it knows no
idempotency keys, and says nothing about a request whose reply was lost. The gateway
gives its clients the whole of this server all the same. L{_states
<creditsync.gateway._states>} has what may become of an operation, L{_intents
<creditsync.gateway._intents>} the log in which that is durable before anything is sent,
L{_upstream<creditsync.gateway._upstream>} the connection to the platform, L{_journal
<creditsync.gateway._journal>} what is committed together and published, L{_runtime
<creditsync.gateway._runtime>} the trading runtime, L{_requests
<creditsync.gateway._requests>} what clients request of it, and L{_catchup
<creditsync.gateway._catchup>} the events of the time without a connection.

Private: applications do not import it.
"""
