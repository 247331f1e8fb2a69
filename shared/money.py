"""Money is an integer of micro-dollars; prices are micro-dollars per million tokens."""

from __future__ import annotations

MICRO_PER_USD = 1_000_000
TOKENS_PER_PRICE = 1_000_000
