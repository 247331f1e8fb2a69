"""Requests to URLs that somebody else chose: key sets of token issuers, webhooks, media.

    url ── canonical https, port 443 or 8443 ──> name looked up once ──> every address public?
                                                                              |
        answer, within its size and time <── TLS for the name in the URL <── that very address dialled

Whatever goes wrong is told in the same words, so that nobody can map our network by asking.
No redirect is followed, no proxy of the environment is used, no connection is kept: a name is
judged anew for each request, and between the look-up and the call there is no second look-up
that could say something else (DNS rebinding).
"""
