from __future__ import annotations

import pytest

from gateway_project import redaction

MINTED = "gw-0123abcd-" + "Ab9_-" * 9


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        (f"caller {MINTED} was refused", "caller gw-0123abcd-•••• was refused"),
        ("Incorrect API key provided: sk-proj-abcDEF123456", "Incorrect API key provided: sk-••••"),
        ("sk-ant-api03-abcdefgh12345678", "sk-••••"),
        ("key AIzaSyA1234567890abcdefghij used", "key AIza•••• used"),
        ("Authorization: Bearer abcdef123456.x", "Authorization: Bearer ••••"),
        ('{"api_key": "hunter22", "model": "gpt"}', '{"api_key": ••••, "model": "gpt"}'),
        ("X-Session-API-Key: hunter22", "X-Session-API-Key: ••••"),
        ("OH_SECRET_KEY=abc LANG=en", "OH_SECRET_KEY=•••• LANG=en"),
        ("https://host/?api_key=abc&x=1", "https://host/?api_key=••••&x=1"),
        ("postgres://gateway:hunter22@db/gateway", "postgres://gateway:••••@db/gateway"),
        ("password='a b'", "password=•••• b'"),
    ],
)
def test_what_looks_like_a_credential_is_masked(text: str, masked: str) -> None:
    assert redaction.redact(text) == masked


@pytest.mark.parametrize(
    "text",
    [
        "turn 3 of conversation 0f8fad5b-d9cb-469f-a165-70867728950e took 3.2 s",
        "max_tokens: 100, prompt_tokens=12",
        "http://127.0.0.1:8000/v1/chat/completions",
        "task-1234567890 risk-assessment-of-things",
        "the bearer of bad news",
        "gw-0123abcd",
    ],
)
def test_ordinary_text_is_left_alone(text: str) -> None:
    assert redaction.redact(text) == text


def test_a_remembered_text_is_masked_wherever_it_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redaction, "_known", set())
    redaction.remember("correct horse battery", "short", "")

    assert redaction.redact("xcorrect horse batteryx is short") == "x••••x is short"
