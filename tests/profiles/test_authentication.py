import ipaddress

import pytest
from rest_framework.exceptions import AuthenticationFailed, NotAuthenticated
from rest_framework.request import Request
from rest_framework.test import APIRequestFactory
from rest_framework.views import APIView

from profiles import access, authentication, bookkeeping, issuing
from profiles.access import Caller
from profiles.authentication import ApiKeyAuthentication, MayChat, MayManage, address_of, client_of
from profiles.exceptions import TooManyFailedAttempts
from profiles.models import ApiKey, FailedAuthentication
from tests import factories

UNKNOWN = "gw-{:08x}-" + "x" * 43


def request_with(headers=None, **meta):
    return Request(APIRequestFactory().get("/v1/models", headers=headers or {}, **meta))


def authenticate(headers, **meta):
    return ApiKeyAuthentication().authenticate(request_with(headers, **meta))


@pytest.fixture
def made(db):
    return factories.api_key()


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param({"Authorization": "Bearer {}"}, id="Bearer"),
        pytest.param({"Authorization": "bearer {}"}, id="lower case"),
        pytest.param({"Authorization": "  BEARER   {}  "}, id="white space"),
        pytest.param({"X-Session-API-Key": "{}"}, id="session header"),
        pytest.param({"X-Session-API-Key": " {} "}, id="session header with white space"),
        pytest.param({"Authorization": "Bearer {}", "X-Session-API-Key": "{}"}, id="both, the same"),
        pytest.param({"Authorization": "Basic YTpi", "X-Session-API-Key": "{}"}, id="a proxy's Basic beside it"),
        pytest.param({"Authorization": "", "X-Session-API-Key": "{}"}, id="an empty one beside it"),
    ],
)
def test_a_key_is_found_wherever_clients_put_it(made, headers):
    user, caller = authenticate({name: value.format(made.text) for name, value in headers.items()})
    assert user is None
    assert isinstance(caller, Caller)
    assert caller.api_key_id == made.row.pk


@pytest.mark.parametrize(
    ("headers", "text"),
    [
        ({}, authentication.NO_KEY),
        ({"Authorization": ""}, authentication.NO_KEY),
        ({"Authorization": "Bearer"}, authentication.OTHER_SCHEME),
        ({"Authorization": "Basic YTpi"}, authentication.OTHER_SCHEME),
        ({"Authorization": "gw-12345678-abc"}, authentication.OTHER_SCHEME),
        ({"X-Session-API-Key": " "}, authentication.NO_KEY),
    ],
)
def test_without_a_key_the_caller_is_told_what_to_send(headers, text):
    with pytest.raises(NotAuthenticated) as refused:
        authenticate(headers)
    assert refused.value.status_code == 401
    assert str(refused.value.detail) == text
    assert text.startswith("Unauthorized: ")
    assert "X-Session-API-Key" in text
    assert "Bearer" in text


def test_two_different_keys_are_refused_even_if_both_are_right(made):
    other = factories.api_key()
    with pytest.raises(AuthenticationFailed) as refused:
        authenticate({"Authorization": f"Bearer {made.text}", "X-Session-API-Key": other.text})
    assert str(refused.value.detail) == authentication.TWO_KEYS


def refusal_of(text):
    with pytest.raises(AuthenticationFailed) as refused:
        authenticate({"Authorization": f"Bearer {text}"})
    return str(refused.value.detail)


def test_every_refused_key_gets_the_same_text_but_for_its_last_four_characters(made):
    revoked = factories.api_key()
    issuing.revoke(revoked.row, reason="lost")
    expired = factories.api_key()
    ApiKey.objects.filter(pk=expired.row.pk).update(expires_at=expired.row.created_at)
    texts = [UNKNOWN.format(1), made.text[:-4] + "AAAA", revoked.text, expired.text, "sk-something-else"]
    refusals = [refusal_of(text).replace(text[-4:], "LAST") for text in texts]
    assert set(refusals) == {
        "Unauthorized: the API key ending in 'LAST' is not valid, or not any more. " + authentication.HOW_TO_SEND
    }


@pytest.mark.parametrize("text", ["1234", "secret", "x" * 11, "é" * 40, "x" * 40 + "\x7f"])
def test_a_short_or_unprintable_text_is_not_echoed_at_all(db, text):
    assert refusal_of(text) == (
        f"Unauthorized: the API key is not valid, or not any more. {authentication.HOW_TO_SEND}"
    )


def test_a_known_key_costs_no_query_the_second_time(made, django_assert_num_queries):
    headers = {"Authorization": f"Bearer {made.text}"}
    authenticate(headers)
    with django_assert_num_queries(0):
        authenticate(headers)


@pytest.mark.django_db
def test_on_an_event_loop_a_remembered_key_is_enough_and_another_asks_for_a_thread():
    from asgiref.sync import async_to_sync
    from django.core.exceptions import SynchronousOnlyOperation

    known, new = factories.api_key(), factories.api_key()
    authenticate({"X-Session-API-Key": known.text})

    async def on_the_loop(text):
        return authenticate({"X-Session-API-Key": text})

    assert async_to_sync(on_the_loop)(known.text)[1].api_key_id == known.row.pk
    with pytest.raises(SynchronousOnlyOperation):
        async_to_sync(on_the_loop)(new.text)


def test_the_401_names_the_scheme():
    assert ApiKeyAuthentication().authenticate_header(request_with()) == "Bearer"


# --- the books


@pytest.mark.django_db
def test_uses_and_failures_reach_the_books(made):
    authenticate({"X-Session-API-Key": made.text}, HTTP_USER_AGENT="OpenAI/Python 2.54.0\x00")
    refusal_of(UNKNOWN.format(7))
    refusal_of(made.text[:-4] + "AAAA")
    refusal_of("sk-not-one-of-ours")
    refusal_of("sk-not-one-of-ours-but-long-enough-to-be-one")
    bookkeeping.flush()
    assert ApiKey.objects.get(pk=made.row.pk).last_used_client == "OpenAI/Python 2.54.0"
    assert dict(FailedAuthentication.objects.values_list("prefix", "count")) == {
        "00000007": 1,
        made.text[3:11]: 1,
        "": 2,
    }


# --- the limit on unknown keys


def fail(times, address="203.0.113.1"):
    for number in range(times):
        with pytest.raises(AuthenticationFailed):
            authenticate({"X-Session-API-Key": UNKNOWN.format(number)}, REMOTE_ADDR=address)


@pytest.mark.django_db
def test_the_twenty_first_unknown_key_of_a_minute_is_refused_without_a_query(django_assert_num_queries):
    fail(20)
    with django_assert_num_queries(0), pytest.raises(TooManyFailedAttempts) as refused:
        authenticate({"X-Session-API-Key": UNKNOWN.format(99)}, REMOTE_ADDR="203.0.113.1")
    assert 1 <= refused.value.retry_after_seconds <= 60
    fail(1, address="203.0.113.2")


def test_a_key_that_this_process_has_met_works_from_a_limited_address(made):
    headers = {"X-Session-API-Key": made.text}
    authenticate(headers)
    fail(20)
    access.forget_key(made.row.pk)
    assert authenticate(headers, REMOTE_ADDR="203.0.113.1")[1].api_key_id == made.row.pk


@pytest.mark.django_db
def test_texts_that_are_no_keys_cost_nothing_and_are_not_limited(django_assert_num_queries):
    with django_assert_num_queries(0):
        assert len({refusal_of(f"EMPTY{number}") for number in range(30)}) == 1


# --- addresses


@pytest.mark.parametrize(
    ("trusted", "remote", "forwarded", "expected"),
    [
        ([], "10.0.0.9", "203.0.113.5", "10.0.0.9"),
        (["10.0.0.0/8"], "10.0.0.9", "203.0.113.5", "203.0.113.5"),
        (["10.0.0.0/8"], "192.0.2.1", "203.0.113.5", "192.0.2.1"),
        (["10.0.0.0/8"], "10.0.0.9", "", "10.0.0.9"),
        (["10.0.0.0/8"], "10.0.0.9", "198.51.100.7, 203.0.113.5", "203.0.113.5"),
        (["10.0.0.0/8"], "10.0.0.9", "198.51.100.7, 203.0.113.5, 10.0.0.3", "203.0.113.5"),
        (["10.0.0.0/8"], "10.0.0.9", "10.0.0.3", "10.0.0.3"),
        (["10.0.0.0/8"], "10.0.0.9", "203.0.113.5, nonsense", "10.0.0.9"),
        (["10.0.0.0/8"], "::ffff:10.0.0.9", "203.0.113.5", "203.0.113.5"),
        (["::1"], "::1", " 2001:db8::1 ", "2001:db8::1"),
        (["10.0.0.0/8"], "", "203.0.113.5", ""),
    ],
)
def test_forwarded_addresses_are_believed_from_trusted_proxies_only(settings, trusted, remote, forwarded, expected):
    settings.GATEWAY_TRUSTED_PROXIES = [ipaddress.ip_network(text) for text in trusted]
    assert address_of(request_with(REMOTE_ADDR=remote, HTTP_X_FORWARDED_FOR=forwarded)) == expected


def test_a_request_without_an_address_has_none():
    request = APIRequestFactory().get("/")
    del request.META["REMOTE_ADDR"]
    assert address_of(request) == ""


@pytest.mark.parametrize(
    ("agent", "expected"),
    [("OpenAI/Python 2.54.0", "OpenAI/Python 2.54.0"), ("a\x00b\r\nc\ud800é", "abc"), ("x" * 999, "x" * 200), ("", "")],
)
def test_a_clients_name_is_short_and_printable(agent, expected):
    assert client_of(request_with(HTTP_USER_AGENT=agent)) == expected


# --- scopes


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("scopes", "may_chat", "may_manage"),
    [
        ({"can_chat": True, "can_manage": False}, True, False),
        ({"can_chat": False, "can_manage": True}, False, True),
        ({"can_chat": True, "can_manage": True}, True, True),
    ],
)
def test_scopes_open_what_they_name(scopes, may_chat, may_manage):
    request = request_with()
    request.auth = authenticate({"X-Session-API-Key": factories.api_key(**scopes).text})[1]
    assert MayChat().has_permission(request, APIView()) is may_chat
    assert MayManage().has_permission(request, APIView()) is may_manage


def test_nobody_has_no_scope():
    request = request_with()
    request.auth = None
    assert not MayChat().has_permission(request, APIView())
    assert not MayManage().has_permission(request, APIView())
