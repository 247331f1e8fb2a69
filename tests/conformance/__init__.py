"""One suite over all providers: whatever is in the registry appears here by itself."""
