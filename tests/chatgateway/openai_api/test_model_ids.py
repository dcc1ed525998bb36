from __future__ import annotations

import pytest
from openai.types import Model

from chatgateway.openai_api.model_ids import model_list, model_not_found, model_object, to_model_id, to_slug


@pytest.mark.parametrize("slug", ["default", "my-agent_2", "openhands_twice"])
def test_a_slug_and_its_model_id_name_each_other(slug: str) -> None:
    assert to_slug(to_model_id(slug)) == slug


@pytest.mark.parametrize("model_id", ["", "gpt-4o", "openhands", "openhands_", "OPENHANDS_x", " openhands_x"])
def test_other_ids_have_no_slug(model_id: str) -> None:
    assert to_slug(model_id) is None


@pytest.mark.parametrize(
    ("model_id", "message"),
    [
        ("gpt-4o", "Unknown OpenHands model 'gpt-4o'. Use GET /v1/models."),
        ("openhands_", "Unknown OpenHands model 'openhands_'. Use GET /v1/models."),
        ("openhands_nope", "Profile 'nope' not found. Use GET /v1/models."),
        ("x" * 500, f"Unknown OpenHands model '{'x' * 128}…'. Use GET /v1/models."),
        ("openhands_\ud800", "Profile '?' not found. Use GET /v1/models."),
    ],
)
def test_an_unknown_model_is_named_in_the_404(model_id: str, message: str) -> None:
    error = model_not_found(model_id)
    assert (error.status, error.code, error.param, error.message) == (404, "model_not_found", "model", message)


def test_a_model_object_is_what_the_sdk_expects() -> None:
    row = model_object(slug="default", created=1_700_000_000)
    assert row == {"id": "openhands_default", "object": "model", "created": 1_700_000_000, "owned_by": "openhands"}
    assert Model.model_validate(row, strict=True).model_dump() == row


def test_a_name_and_a_description_are_shown_and_never_null() -> None:
    row = model_object(slug="default", created=1, name="Default", description="Writes code.")
    assert (row["name"], row["description"]) == ("Default", "Writes code.")
    assert not {"name", "description"} & set(model_object(slug="default", created=1))


def test_the_list_is_ordered_by_id() -> None:
    rows = [model_object(slug=slug, created=1) for slug in ("b", "a")]
    assert model_list(rows) == {"object": "list", "data": rows[::-1]}
    assert model_list([]) == {"object": "list", "data": []}
