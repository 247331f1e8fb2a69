"""The questions asked of the database. Each takes an open connection and leaves the commit to its caller."""
