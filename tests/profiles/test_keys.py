import hmac

import pytest

from profiles import keys

PEPPER = "p" * 32


def test_a_minted_key_is_found_by_its_prefix_and_proved_by_its_digest():
    made = keys.mint(pepper=PEPPER)
    parsed = keys.parse(made.text, pepper=PEPPER)
    assert parsed is not None
    assert parsed.is_minted
    assert made.text.startswith(f"gw-{parsed.prefix}-")
    assert parsed.prefix == made.prefix
    assert keys.matches(made.text, made.digest, pepper=PEPPER)


def test_two_minted_keys_differ():
    assert keys.mint(pepper=PEPPER).text != keys.mint(pepper=PEPPER).text


@pytest.mark.parametrize(
    ("changed", "pepper"),
    [
        pytest.param(lambda text: text[:-1] + ("A" if text[-1] != "A" else "B"), PEPPER, id="another last character"),
        pytest.param(lambda text: text + "A", PEPPER, id="one character more"),
        pytest.param(lambda text: text, "q" * 32, id="another pepper"),
    ],
)
def test_a_changed_key_does_not_match(changed, pepper):
    made = keys.mint(pepper=PEPPER)
    assert not keys.matches(changed(made.text), made.digest, pepper=pepper)


def test_digests_are_compared_in_constant_time(monkeypatch):
    compared = []

    def compare(first, second):
        compared.append((first, second))
        return True

    monkeypatch.setattr(hmac, "compare_digest", compare)
    made = keys.mint(pepper=PEPPER)
    assert keys.matches("gw-anything", made.digest, pepper=PEPPER)
    assert compared == [(keys.digest("gw-anything", pepper=PEPPER), made.digest)]


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="empty"),
        pytest.param("sk-short", id="short"),
        pytest.param("x" * 31, id="one character too short"),
        pytest.param("x" * 513, id="too long"),
        pytest.param("gw-12345678-" + "x" * 10, id="a minted key cut short"),
        pytest.param("a key of words with spaces in it, long enough", id="spaces"),
        pytest.param("é" * 40, id="not ASCII"),
        pytest.param("x" * 40 + "\n", id="a line break at the end"),
        pytest.param("x" * 40 + "\x00", id="NUL"),
        pytest.param("\ud800" * 40, id="lone surrogates"),
    ],
)
def test_what_cannot_be_a_key_is_not_parsed(text):
    assert keys.parse(text, pepper=PEPPER) is None


def test_a_given_text_gets_a_prefix_that_is_no_minted_one():
    adopted = keys.adopt("x" * 32, pepper=PEPPER)
    assert adopted.prefix.startswith(keys.GIVEN_PREFIX)
    parsed = keys.parse("x" * 32, pepper=PEPPER)
    assert parsed is not None
    assert parsed.prefix == adopted.prefix
    assert keys.matches("x" * 32, adopted.digest, pepper=PEPPER)


def test_the_prefix_of_a_given_text_cannot_be_computed_without_the_pepper():
    assert keys.adopt("x" * 32, pepper=PEPPER).prefix != keys.adopt("x" * 32, pepper="q" * 32).prefix


def test_a_short_text_is_not_adopted_and_not_shown():
    with pytest.raises(ValueError, match="32 to 512") as refused:
        keys.adopt("tooshort-secret", pepper=PEPPER)
    assert "tooshort" not in str(refused.value)


def test_no_key_shows_in_a_repr():
    made = keys.mint(pepper=PEPPER)
    secret = made.text.rpartition("-")[2]
    assert secret not in repr(made)
    assert made.digest not in repr(made)
    assert secret not in repr(keys.parse(made.text, pepper=PEPPER))
