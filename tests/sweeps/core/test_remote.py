"""Places outside the run: S3 that is slow, answers 503 or refuses, and addresses whose credentials are never shown."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from fulora.errors import InputError
from sweeps.core.remote import Remote, is_refusal

from ..s3_server import LoopbackS3

SECRETS = ("AKIAKEY", "wJalr/XUtn+FEMI", "wJalr%2FXUtn%2BFEMI")


def place(server: LoopbackS3, **known: str) -> Remote:
    """Return a folder on the server."""
    return Remote(address=server.address(**known), flag="storage")


def test_an_s3_that_answers_503_for_a_while_is_asked_again(server: LoopbackS3, tmp_path: Path) -> None:
    there, left = place(server), 4  # the library tries three times by itself
    there.put("folder/one", b"1")

    def busy(method: str, path: str) -> tuple[int, str] | None:
        nonlocal left
        left -= 1
        return (503, "SlowDown") if left >= 0 else None

    server.answer = busy
    assert there.get("folder/one") == b"1" and left < 0
    left = 4
    (tmp_path / "two").write_bytes(b"22")
    there.upload("folder/two", tmp_path / "two")
    server.answer = lambda method, path: None
    assert there.names("folder") == ["folder/one", "folder/two"] and there.size("folder/two") == 2


def test_an_s3_that_takes_four_seconds_to_answer_is_waited_for(server: LoopbackS3) -> None:
    there = place(server)
    there.put("one", b"1")
    server.seconds, before = 4.0, len(server.asked)  # the library's own patience ends after three
    assert there.size("one") == 1
    assert len(server.asked) == before + 1


@pytest.mark.parametrize("answer", [(403, "AccessDenied"), (507, "InsufficientStorage"), (403, "QuotaExceeded")])
def test_an_s3_that_refuses_is_asked_once_and_its_words_are_passed_on(server: LoopbackS3, answer) -> None:
    there = place(server)
    server.asked.clear()
    server.answer = lambda method, path: answer
    with pytest.raises(InputError, match=r"storage: 's3://storage-.* cannot be used .*credentials, region"):
        there.check()
    assert len(server.asked) == 1


def test_no_text_holds_the_credentials_of_an_address(server: LoopbackS3) -> None:
    there = place(server, credentials="AKIAKEY:wJalr%2FXUtn%2BFEMI@")
    there.check()
    assert not any(secret in text for secret in SECRETS for text in (str(there), repr(there), repr({"at": there})))
    assert str(there) == place(server).address.replace("scheme=http&region", "scheme=http&region")
    server.answer = lambda method, path: (403, "AccessDenied for AKIAKEY wJalr/XUtn+FEMI")
    for address in (there.address, "s3://AKIAKEY:wJalr/XUtn+FEMI@bucket/x", "gopher://AKIAKEY:wJalr%2FXUtn%2BFEMI@b/x"):
        with pytest.raises(InputError) as raised:
            Remote(address=address, flag="storage").check()
        assert not any(secret in raised.value.faults[0] for secret in SECRETS), raised.value.faults
        assert raised.value.__cause__ is None and raised.value.__suppress_context__
    again = pickle.loads(pickle.dumps(there))
    assert again.address == there.address, "workers need them"


def test_a_folder_refuses_at_once_what_waiting_does_not_help(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    there = Remote(address=str(tmp_path / "file" / "set"), flag="storage")
    with pytest.raises(OSError, match=r"Not a directory|File exists") as raised:
        there.put("one", b"1")
    assert is_refusal(raised.value)
    assert not is_refusal(TimeoutError(110, "Connection timed out"))
