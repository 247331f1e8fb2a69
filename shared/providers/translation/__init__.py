"""Forms that callers speak, said through chat to the providers that do not speak them."""
