"""The vectors of AWS's Signature Version 4 test suite (aws-sig-v4-test-suite), by their names there."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from shared.providers.sigv4 import SigV4
from shared.sigv4 import AccessKey, canonical_request, sha256, signed_headers

NOW = datetime(2015, 8, 30, 12, 36, tzinfo=UTC)
SECRET = "AKIDEXAMPLE wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
SIGNER = SigV4("us-east-1", "service")


@pytest.mark.parametrize(
    ("method", "path", "signature"),
    [
        pytest.param(
            "GET", "/", "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31", id="get-vanilla"
        ),
        pytest.param(
            "POST", "/", "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b", id="post-vanilla"
        ),
        pytest.param(
            "GET",
            "/?Param2=value2&Param1=value1",
            "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500",
            id="get-vanilla-query-order-key-case",
        ),
        pytest.param(
            "GET",
            "/?Param1=value1",
            "a67d582fa61cc504c4bae71f336f98b97f1ea3c7a6bfe1b6e45aec72011b9aeb",
            id="get-vanilla-empty-query-key",
        ),
        pytest.param(
            "GET", "/ሴ", "8318018e0b0f223aa2bbf98705b62bb787dc9c0e678f255a891fd03141be5d85", id="get-utf8"
        ),
    ],
)
def test_a_signature_is_the_one_aws_published(method: str, path: str, signature: str) -> None:
    url = f"https://example.amazonaws.com{path}"

    headers = SIGNER.sign(SECRET, method=method, url=url, body=b"", now=NOW)

    assert headers == {
        "x-amz-date": "20150830T123600Z",
        "authorization": "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, "
        f"SignedHeaders=host;x-amz-date, Signature={signature}",
    }


TOKEN = (
    "AQoDYXdzEPT//////////wEXAMPLEtc764bNrC9SAPBSM22wDOk4x4HIZ8j4FZTwdQWLWsKWHGBuFqwAeMicRXmxfpSPfIeoIYRqTflf"
    "KD8YUuwthAx7mSEI/qkPpKPi/kMcGdQrmGdeehM4IC1NtBmUpp2wUE8phUZampKsburEDy0KPkyQDYwT7WZ0wq5VSXDvp75YU9HFvlRd"
    "8Tx6q6fE8YQcHNVXAkiY9q6d+xo0rKwT38xVqr7ZD0u0iPPkUL64lIZbqBAz+scqKmlzm8FDrypNC9Yjc8fPOLn9FX9KSYvKTr4rvx3i"
    "SIlTJabIQwj2ICCR/oLxBA=="
)


def test_a_session_token_is_sent_and_signed() -> None:
    """post-sts-header-before."""
    headers = SIGNER.sign(
        f"{SECRET} {TOKEN}", method="POST", url="https://example.amazonaws.com/", body=b"", now=NOW
    )

    assert headers["x-amz-security-token"] == TOKEN
    assert headers["authorization"].endswith(
        "SignedHeaders=host;x-amz-date;x-amz-security-token, "
        "Signature=85d96828115b5dc0cfc3bd16ad9e210dd772bbebba041836c64533a82be05ead"
    )


def test_a_body_is_signed_as_in_the_suite() -> None:
    """The canonical request of post-x-www-form-urlencoded, with its content type signed."""
    headers = {
        "content-type": "application/x-www-form-urlencoded",
        "host": "example.amazonaws.com",
        "x-amz-date": "20150830T123600Z",
    }

    canonical = canonical_request("POST", "https://example.amazonaws.com/", headers, sha256(b"Param1=value1"))

    assert canonical == (
        "POST\n/\n\ncontent-type:application/x-www-form-urlencoded\nhost:example.amazonaws.com\n"
        "x-amz-date:20150830T123600Z\n\ncontent-type;host;x-amz-date\n"
        "9095672bbd1f56dfc5b65f3e153adc8731a4a654192329106275f4c7b24d0b6e"
    )


def test_a_request_to_s3_is_signed_as_in_its_manual() -> None:
    """The GET with a range, and the GET with a query, of
    docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html.
    """
    key = AccessKey("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")
    signatures = []
    for path, headers in (("test.txt", {"range": "bytes=0-9"}), ("?max-keys=2&prefix=J", {})):
        signed = signed_headers(
            key,
            region="us-east-1",
            service="s3",
            method="GET",
            url=f"https://examplebucket.s3.amazonaws.com/{path}",
            body_sha256=sha256(b""),
            now=datetime(2013, 5, 24, tzinfo=UTC),
            headers=headers,
        )
        signatures.append(signed["authorization"].partition("Signature=")[2])

    assert signatures == [
        "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41",
        "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7",
    ]


def test_what_is_encoded_in_the_path_of_an_object_is_not_encoded_again() -> None:
    url = "https://store.example/bucket/a%20b"

    assert canonical_request("GET", url, {}, "", safe="/%-_.~").splitlines()[1] == "/bucket/a%20b"
    assert canonical_request("GET", url, {}, "").splitlines()[1] == "/bucket/a%2520b"


def test_a_secret_is_in_no_repr() -> None:
    assert "wJalr" not in repr(AccessKey("AKIDEXAMPLE", "wJalrXUtnFEMI", "wJalr-token"))


def test_the_signature_holds_for_these_bytes_alone() -> None:
    url = "https://example.amazonaws.com/"

    one, other = (SIGNER.sign(SECRET, method="POST", url=url, body=body, now=NOW) for body in (b"a", b"b"))

    assert one["authorization"] != other["authorization"]


def test_the_secret_itself_never_travels() -> None:
    headers = SIGNER.sign(SECRET, method="POST", url="https://example.amazonaws.com/", body=b"", now=NOW)

    assert "EXAMPLEKEY" not in str(headers)
    assert SIGNER.headers(SECRET) == {}
