"""
The conversations with clients, free of any transport.

In the order in which a request meets them: L{creditsync._conversation.sessions}
opens a L{session<creditsync._conversation.session>} for each client, which has
L{requests<creditsync._conversation.requests>} read, most of them by the fast way of
L{plain lines<creditsync._conversation.plain>}, has each one executed by one of the
L{finance<creditsync._conversation.finance>} commands or the other
L{commands<creditsync._conversation.commands>}, and answers it. A request whose
response has a C{__deferred} is one of the
L{waiters<creditsync._conversation.waiters>} until its event comes, which
L{broadcast<creditsync._conversation.broadcast>} sends to all sessions first. A request
of the application itself is a L{call<creditsync._conversation.calls>}, the session of
that one request.

Private: only creditsync itself imports it.
"""
