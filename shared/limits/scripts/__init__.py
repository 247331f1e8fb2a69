"""The Lua of this package; all keys of a call carry the account as hash tag."""
