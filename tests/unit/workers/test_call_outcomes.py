"""What counts as how a call of a provider ended."""

from __future__ import annotations

import pytest

from shared.errors import ProviderCredentialRefused, ProviderUnavailable
from shared.observability.metrics import CALL_OUTCOMES
from workers.run_job import _outcome_of


@pytest.mark.parametrize(
    ("error", "own", "outcome"),
    [
        (ProviderCredentialRefused("no", provider="acme"), False, "credential_refused"),
        # Else one account's bad key would be a provider that is down.
        (ProviderCredentialRefused("no", provider="acme"), True, "own_credential_refused"),
        (ProviderUnavailable("no", provider="acme"), True, "unavailable"),
        (ValueError(), False, "other"),
    ],
)
def test_a_refused_key_counts_apart_where_it_is_an_account_s_own(
    error: Exception, own: bool, outcome: str
) -> None:
    assert _outcome_of(error, own=own) == outcome
    assert outcome in CALL_OUTCOMES
