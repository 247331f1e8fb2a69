"""The languages providers speak, each one implementation of `Dialect`."""
