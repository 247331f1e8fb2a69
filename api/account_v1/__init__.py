"""`/api/v1/auth`, ...: an account, the people in it, and what they hold."""
