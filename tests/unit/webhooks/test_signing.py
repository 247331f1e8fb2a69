"""Signatures hold before the reference library, and a vector written down keeps secrets what they are."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from shared.ids import AccountId
from shared.webhooks.signing import WebhookSecrets, signed_headers

SECRETS = WebhookSecrets(b"pepper of the tests, 32 bytes or so")
BODY = b'{"type":"job.succeeded","data":{"note":"\xc3\xa9 \xf0\x9f\x98\x80"}}'
ID = "msg_" + "0" * 32


def now() -> datetime:
    return datetime.now(UTC)


def test_a_published_vector() -> None:
    """Of github.com/standard-webhooks/standard-webhooks, whose libraries all test it."""
    headers = signed_headers(
        ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"],
        "msg_p5jXN8AQM9LWM0D4loKWxJek",
        b'{"test": 2432232314}',
        at=datetime.fromtimestamp(1614265330, UTC),
    )

    assert headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_a_secret_stays_what_it_is() -> None:
    """Receivers have it in their configuration: derived otherwise, every delivery would be refused."""
    assert SECRETS.of_endpoint("wh_0123", 1) == "whsec_cX/UOv96Bl0L8+BIRl0FU5lUmagx5+su00lxBwULsYg="
    assert SECRETS.of_account(AccountId("acme")) == "whsec_uO0r6yGuwflbgRLSQgTsW3cOBao8IpY92gnKqPE7swA="


def test_each_owner_and_version_has_its_own_secret_of_32_bytes() -> None:
    made = [
        SECRETS.of_endpoint("wh_1", 1),
        SECRETS.of_endpoint("wh_1", 2),
        SECRETS.of_endpoint("wh_2", 1),
        SECRETS.of_account(AccountId("acme")),
        WebhookSecrets(b"another pepper, of 32 bytes or so").of_endpoint("wh_1", 1),
    ]

    assert len(set(made)) == len(made)
    assert {len(base64.b64decode(secret.removeprefix("whsec_"), validate=True)) for secret in made} == {32}


def test_what_is_signed_verifies() -> None:
    secret = SECRETS.of_endpoint("wh_1", 1)

    verified = Webhook(secret).verify(BODY, signed_headers([secret], ID, BODY, at=now()))

    assert verified["data"] == {"note": "é 😀"}


def test_both_secrets_verify_while_one_takes_over() -> None:
    new, old = SECRETS.of_endpoint("wh_1", 2), SECRETS.of_endpoint("wh_1", 1)
    headers = signed_headers([new, old], ID, BODY, at=now())

    assert [Webhook(secret).verify(BODY, headers)["type"] for secret in (new, old)] == ["job.succeeded"] * 2
    with pytest.raises(WebhookVerificationError):
        Webhook(SECRETS.of_endpoint("wh_1", 3)).verify(BODY, headers)


@pytest.mark.parametrize("changed", ["webhook-id", "webhook-timestamp", "body"])
def test_nothing_of_it_can_be_changed(changed: str) -> None:
    secret = SECRETS.of_endpoint("wh_1", 1)
    headers = signed_headers([secret], ID, BODY, at=now())
    body = BODY
    if changed == "webhook-id":
        headers["webhook-id"] = "msg_" + "1" * 32
    elif changed == "webhook-timestamp":
        headers["webhook-timestamp"] = str(int(headers["webhook-timestamp"]) + 1)
    else:
        body = BODY + b" "

    with pytest.raises(WebhookVerificationError):
        Webhook(secret).verify(body, headers)


def test_an_old_one_cannot_be_replayed() -> None:
    secret = SECRETS.of_endpoint("wh_1", 1)

    with pytest.raises(WebhookVerificationError):
        Webhook(secret).verify(BODY, signed_headers([secret], ID, BODY, at=now() - timedelta(minutes=6)))
