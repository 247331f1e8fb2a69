"""`/dashboard/`: pages that show an account, or an operator, what the API tells them.

They are files, the same for everybody: whoever loads them signs in with a password or a key, and what
they show comes from the API, by the permissions of that credential.

    browser: static/*  ──  static/api.js: call() ──> /api/v1/...   the key in a header, never in a cookie

With HEADRACE_ADMIN_PORT they are on that port too, where operators' routes are.
"""
