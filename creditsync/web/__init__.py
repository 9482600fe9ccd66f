"""
What operators get from a server over HTTP: its metrics, its health, a console.

L{Root<creditsync.web.root.Root>} is a L{twisted.web.resource.Resource} that an
embedding application can mount anywhere in a site of its own; the service that
C{--web} runs is L{Web<creditsync.web._service.Web>}. Below the root there are::

    GET  metrics      what Prometheus scrapes          (creditsync.web._probes)
    GET  health       200 as long as the reactor runs
    GET  ready        200 if requests are served, or 503 and the reason
    GET  .            the console's page                (creditsync.web._page)
    GET  static/...   its scripts and styles
    GET  session      who is signed in                  (creditsync.web._signing)
    POST session      sign in with a token
    POST session/end  sign out
    GET  feed         the server's state every second   (creditsync.web._feed)
    GET  search       trades, by order, login or extID  (creditsync.web._search)

C{feed} and C{search} require a sign-in; nothing here changes anything in the
server. Without C{--web} none of it is loaded.
"""
