"""What callers ask, checked: bodies by strict JSON, and requests by the form of the API they came by.

Every check judges a parsed body and returns nothing: the body itself travels on, so that parameters
which are not known here reach the provider that knows them.
"""
