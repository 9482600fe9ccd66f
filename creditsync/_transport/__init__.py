"""
From bytes to lines and back: endpoints, TLS, connections, and whose turn it is.

L{listening<creditsync._transport.listening>} makes endpoints,
L{factory<creditsync._transport.factory>} accepts connections and drives their
reactor turns, and L{protocol<creditsync._transport.protocol>} is one of them. A
connection is made of its input (L{framing<creditsync._transport.framing>}), its
output (L{output<creditsync._transport.output>}) and its state
(L{states<creditsync._transport.states>}). Nothing here knows JSON.

Private: nothing outside of creditsync imports it.
"""
