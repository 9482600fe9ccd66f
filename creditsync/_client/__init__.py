"""
How L{creditsync.client.CreditClient} works: one connection, many requests.

L{pipeline<creditsync._client.pipeline>} holds the requests, queued or in flight;
L{connection<creditsync._client.connection>} carries their lines, as
L{lines<creditsync._client.lines>} encodes and decodes them;
L{handshake<creditsync._client.handshake>} says why TLS failed. A
L{request<creditsync._client.request>} decides what a reply means after all that
happened to its earlier tries, L{backoff<creditsync._client.backoff>} how long to
wait before the next, and L{outcomes<creditsync._client.outcomes>} are what the
application gets. L{events<creditsync._client.events>} keeps the subscription over
all connections, by the places that L{cursors<creditsync._client.cursors>} name, and
L{deliveries<creditsync._client.deliveries>} hands the events to the observer.
"""
