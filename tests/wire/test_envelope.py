"""Who may call, and what every error looks like, whatever went wrong."""

from __future__ import annotations

import json
from datetime import timedelta

import httpx
import pytest
from django.utils import timezone

from chatgateway.models import Turn
from profiles import issuing
from profiles.models import ApiKey
from tests import factories
from tests.gateway_process import LiveGateway
from tests.wire.conftest import question

CHAT = "/v1/chat/completions"


def error_of(response: httpx.Response) -> dict[str, object]:
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-request-id"].startswith("req_")
    body = response.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    error: dict[str, object] = body["error"]
    return error


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/v1/models"), ("GET", "/v1/models/x"), ("POST", CHAT), ("GET", "/api/profiles")]
)
def test_without_a_key_nothing_is_served(anonymous: httpx.Client, method: str, path: str) -> None:
    response = anonymous.request(method, path)

    error = error_of(response)
    assert response.status_code == 401
    assert response.headers["www-authenticate"] == "Bearer"
    assert error["code"] == "invalid_api_key"
    assert str(error["message"]).startswith("Unauthorized: ")


def test_a_wrong_key_is_not_repeated_in_the_answer(anonymous: httpx.Client) -> None:
    key = "gw-0123abcd-" + "s" * 39 + "wxyz"

    response = anonymous.get("/v1/models", headers={"Authorization": f"Bearer {key}"})

    assert response.status_code == 401
    assert key not in response.text
    assert "ssss" not in response.text


@pytest.mark.parametrize("scheme", ["Bearer {key}", "bearer {key}", "Bearer   {key}"])
def test_a_bearer_key_is_taken_in_any_case(anonymous: httpx.Client, served: LiveGateway, scheme: str) -> None:
    response = anonymous.get("/v1/models", headers={"Authorization": scheme.format(key=served.key)})

    assert response.status_code == 200


def test_the_session_header_is_taken_too(anonymous: httpx.Client, served: LiveGateway) -> None:
    assert anonymous.get("/v1/models", headers={"X-Session-API-Key": served.key}).status_code == 200


def test_two_different_keys_in_one_request_are_refused(http: httpx.Client) -> None:
    assert http.get("/v1/models", headers={"X-Session-API-Key": "another"}).status_code == 401


def test_a_revoked_key_is_refused_at_once_in_the_process_that_revoked_it(http: httpx.Client) -> None:
    assert http.get("/v1/models").status_code == 200

    issuing.revoke(ApiKey.objects.get(), reason="lost laptop")

    assert http.get("/v1/models").status_code == 401


def test_an_expired_key_is_refused(served: LiveGateway, anonymous: httpx.Client) -> None:
    key = factories.api_key(expires_at=timezone.now() - timedelta(seconds=1))

    response = anonymous.get("/v1/models", headers={"Authorization": f"Bearer {key.text}"})

    assert response.status_code == 401


def test_a_key_without_the_scope_is_told_so(served: LiveGateway, anonymous: httpx.Client) -> None:
    key = factories.api_key(can_chat=False)

    response = anonymous.post(CHAT, headers={"Authorization": f"Bearer {key.text}"}, json=question())

    assert response.status_code == 403
    assert error_of(response)["code"] == "permission_denied"


@pytest.mark.parametrize("path", ["/v1/nope", "/v1/embeddings", "/v1/chat", "/api/nope"])
def test_an_unknown_route_is_404_in_the_envelope(http: httpx.Client, path: str) -> None:
    response = http.get(path)

    assert response.status_code == 404
    assert error_of(response)["code"] == "unknown_url"


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/openhands_chat"])
def test_a_trailing_slash_changes_nothing(http: httpx.Client, path: str) -> None:
    assert http.get(path + "/").json() == http.get(path).json()


def test_a_post_with_a_trailing_slash_is_served_and_not_redirected(http: httpx.Client) -> None:
    assert http.post(CHAT + "/", json=question()).status_code == 200


def test_another_method_is_405_and_names_those_that_are_allowed(http: httpx.Client) -> None:
    response = http.put(CHAT, json=question())

    assert response.status_code == 405
    assert "POST" in response.headers["allow"]
    assert error_of(response)["code"] == "method_not_allowed"


@pytest.mark.parametrize("accept", ["text/event-stream", "application/json", "*/*", "application/xml"])
def test_the_accept_header_decides_nothing(http: httpx.Client, accept: str) -> None:
    response = http.post(CHAT, json=question(), headers={"Accept": accept})

    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    "body",
    [b"{", b"", b"\xff\xfe", b'{"model": NaN}', b"[" * 100_000, b'{"a":' * 50_000, b"1" * 5_000],
    ids=["cut", "empty", "not UTF-8", "NaN", "deep list", "deep object", "long number"],
)
def test_what_is_not_json_is_400(http: httpx.Client, body: bytes) -> None:
    response = http.post(CHAT, content=body, headers={"Content-Type": "application/json"})

    assert response.status_code == 400
    assert error_of(response)["type"] == "invalid_request_error"


@pytest.mark.parametrize("body", ["[]", "1", '"text"', "null", "true"])
def test_a_body_that_is_no_object_is_400(http: httpx.Client, body: str) -> None:
    response = http.post(CHAT, content=body, headers={"Content-Type": "application/json"})

    assert response.status_code == 400
    error_of(response)


@pytest.mark.parametrize("media_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
def test_another_media_type_is_415(http: httpx.Client, media_type: str) -> None:
    response = http.post(CHAT, content=json.dumps(question()), headers={"Content-Type": media_type})

    assert response.status_code == 415
    assert error_of(response)["code"] == "unsupported_media_type"


def test_a_charset_in_the_media_type_is_fine(http: httpx.Client) -> None:
    headers = {"Content-Type": "application/json; charset=utf-8"}

    assert http.post(CHAT, content=json.dumps(question()), headers=headers).status_code == 200


def test_a_body_beyond_the_limit_is_413_like_any_other_error(http: httpx.Client, settings) -> None:
    settings.CORS_ALLOWED_ORIGINS = ["https://chat.example"]

    response = http.post(CHAT, json=question(padding="x" * 61_000_000), headers={"Origin": "https://chat.example"})

    assert response.status_code == 413
    assert error_of(response)["code"] == "request_too_large"
    assert response.headers["access-control-allow-origin"] == "https://chat.example"
    assert response.headers["openai-version"]


def test_an_unknown_caller_may_send_less_than_a_known_one(http: httpx.Client, anonymous: httpx.Client) -> None:
    large = question(padding="x" * 2_000_000)

    assert anonymous.post(CHAT, json=large).status_code == 413
    assert http.post(CHAT, json=large).status_code == 200


def test_an_unknown_host_is_refused_in_json(http: httpx.Client) -> None:
    response = http.get("/v1/models", headers={"Host": "evil.example"})

    assert response.status_code == 400
    assert error_of(response)["code"] == "host_not_allowed"


@pytest.mark.parametrize("is_debugging", [False, True])
def test_a_defect_of_the_gateway_is_500_without_details(http: httpx.Client, settings, is_debugging: bool) -> None:
    settings.DEBUG = is_debugging
    # A row that no code of ours writes: the price is no number.
    from profiles.models import Profile

    Profile.objects.update(input_price=None, output_price=None, catalogue={"input_price": "x", "output_price": "1"})

    response = http.post(CHAT, json=question())

    assert response.status_code == 500
    assert error_of(response)["code"] == "internal_error"
    assert "Traceback" not in response.text
    assert "Decimal" not in response.text


@pytest.mark.parametrize(
    ("path", "body", "media_type", "code"),
    [
        ("/v1/models", "{}", "application/json", "method_not_allowed"),
        ("/v1/nope", "{}", "application/json", "unknown_url"),
        (CHAT, "{", "application/json", "invalid_json"),
        (CHAT, "{}", "text/plain", "unsupported_media_type"),
        (CHAT, "[]", "application/json", "invalid_type"),
    ],
)
def test_every_post_with_a_key_leaves_a_turn_even_one_that_makes_no_sense(
    http: httpx.Client, path: str, body: str, media_type: str, code: str
) -> None:
    response = http.post(path, content=body, headers={"Content-Type": media_type})

    turn = Turn.objects.get()
    assert error_of(response)["code"] == code
    assert (turn.outcome, turn.http_status, turn.error_code) == ("refused", response.status_code, code)
    assert turn.request_id == response.headers["x-request-id"]


def test_the_request_id_of_a_reply_finds_its_turn(http: httpx.Client) -> None:
    response = http.post(CHAT, json=question())

    assert Turn.objects.get().request_id == response.headers["x-request-id"]


def test_a_browser_from_a_listed_origin_may_ask(anonymous: httpx.Client, settings) -> None:
    settings.CORS_ALLOWED_ORIGINS = ["https://chat.example"]
    asked = "authorization,content-type,x-stainless-retry-count,x-conversation-id,x-gateway-sends-history"
    preflight = {
        "Origin": "https://chat.example",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": asked,
    }

    listed = anonymous.options(CHAT, headers=preflight)
    other = anonymous.options(CHAT, headers=preflight | {"Origin": "https://evil.example"})
    refused = anonymous.post(CHAT, headers={"Origin": "https://chat.example"}, json=question())

    assert listed.status_code == 204
    assert listed.headers["access-control-allow-origin"] == "https://chat.example"
    assert listed.headers["access-control-allow-headers"] == asked.replace(",", ", ")
    assert "access-control-allow-origin" not in other.headers
    assert refused.status_code == 401
    assert refused.headers["access-control-allow-origin"] == "https://chat.example"


@pytest.mark.parametrize(("path", "status"), [("/health", 200), ("/", 200), ("/v1", 200), ("/ready", 200)])
def test_probes_and_the_front_door_need_no_key(anonymous: httpx.Client, path: str, status: int) -> None:
    assert anonymous.get(path).status_code == status


def test_health_is_what_the_upstream_gateway_says(anonymous: httpx.Client) -> None:
    assert anonymous.get("/health").json() == {"status": "ok"}
