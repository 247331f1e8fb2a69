"""Money is an integer of micro-dollars; prices are micro-dollars per million tokens."""

from __future__ import annotations

MICRO_PER_USD = 1_000_000
TOKENS_PER_PRICE = 1_000_000


def token_cost_micro_usd(tokens: int, price_per_million_micro_usd: int) -> int:
    """Cost of `tokens`, rounded up, so that a call never costs less than it should."""
    return -(-tokens * price_per_million_micro_usd // TOKENS_PER_PRICE)


def usd(micro_usd: int) -> str:
    return f"{micro_usd / MICRO_PER_USD:.6f}"
