"""One file a duty."""
