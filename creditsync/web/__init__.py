"""
What operators see of a server over HTTP: its metrics, its health, a console.

L{Root<creditsync.web.root.Root>} is a L{twisted.web.resource.Resource} that an
embedding application can mount anywhere in a site of its own; the service that
C{--web} runs is L{Web<creditsync.web._service.Web>}. Below the root there are::

    GET  metrics      what Prometheus scrapes          (creditsync.web._probes)
    GET  health       200 as long as the reactor turns
    GET  ready        200 if requests are served, or 503 and why not
    GET  .            the console's page                (creditsync.web._page)
    GET  static/...   what it is made of
    GET  session      who is signed in                  (creditsync.web._signing)
    POST session      sign in with a token
    POST session/end  sign out
    GET  feed         what happens now, once a second   (creditsync.web._feed)
    GET  search       trades, by order, login or extID  (creditsync.web._search)

C{feed} and C{search} want a sign-in; nothing here changes anything in the
server. No other room imports this one: without C{--web} none of it is loaded.
"""
