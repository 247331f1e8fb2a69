"""Routing: from the name a caller wrote to the plan of targets that a job carries, best first.

    name -> route of the routing file ----> its targets ---┐
         └> model (providers/resolve.py) -> one target ----┤ + fallbacks: the caller's own, else the file's
                                                           v
      drop: kind not served, unfit for the request, no worker   (while others remain)
                                                           v
      order by the route's policy; open breakers and paused lanes last; cut
                                                           v
                                                    Plan, never empty

    routing_file.py  what a routing file may say
    table.py         a file whose names are resolved
    watch.py         the file's present version
    needs.py         what a request asks of a model, and whether a target can
    policies.py      the order of a route's targets
    router.py        all of it: `Router.plan`

A name that leads to one target and falls back to nothing costs what resolving it costs.
Nothing here waits for anything or knows the queue: who does how is handed in.
"""
