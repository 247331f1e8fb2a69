"""Limits of provider accounts, kept by all workers together.

An account is a provider and a credential. Each call takes a permit before it is made and gives
it back after, with the tokens it really took. Accounts without configured limits cost nothing.
"""
