"""Identity: from the key a caller sends to the principal that everything is scoped by.

    api_keys.py     the form of a key; junk is told apart before anything is asked
    lookup.py       key -> principal: this process, then Redis, then the database
    revocation.py   a key dies in the database, in Redis and in every process
    preference.py   what an account prefers reaches all that know its keys

What is stored anywhere is a digest under a pepper, never a key.
"""
