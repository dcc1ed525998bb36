"""Nothing is changed in the admin without a record of it, and no button or action without a place among the roles."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib import admin as django_admin
from django.contrib.auth.models import User
from django.db import models
from django.test import RequestFactory
from django.urls import reverse

from chatgateway.models import Erasure, Turn
from profiles.admin.recorded import RecordedAdmin
from profiles.models import ChangeRecord, Profile
from tests import factories
from tests.admin.test_pages import history
from tests.admin.test_roles import ACTIONS, OPEN_TO_ALL, OWN, ROLES, signed_in

pytestmark = pytest.mark.django_db

ModelAdmin = django_admin.ModelAdmin[models.Model]


def pages() -> list[ModelAdmin]:
    return list(django_admin.site._registry.values())


def request_of(user: User) -> Any:
    request = RequestFactory().get("/admin/")
    request.user = user
    return request


def test_every_page_on_which_somebody_can_change_something_records_it() -> None:
    request = request_of(User.objects.create_superuser("root", password="x"))

    changing = [
        page
        for page in pages()
        if page.has_add_permission(request)
        or page.has_change_permission(request)
        or page.has_delete_permission(request)
    ]

    # Whoever asks for a deletion stands in the row of the deletion itself.
    unrecorded = {page.model for page in changing if not isinstance(page, RecordedAdmin)}
    assert len(changing) == 7
    assert unrecorded == {Erasure}


def test_every_button_of_a_page_has_its_place_among_the_roles() -> None:
    buttons = {
        f"{page.opts.app_label}_{page.opts.model_name}_{button}"
        for page in pages()
        for button in getattr(page, "actions_detail", ())
    }

    placed = OPEN_TO_ALL.union(*OWN.values())
    acting = {name for name, *_ in ACTIONS}
    assert len(buttons) > 10
    assert buttons - placed == set()
    # What only leads elsewhere, or shows something, is no action.
    assert {name.rpartition("_")[2] for name in buttons - acting} == {"of", "use", "retention", "report"}


def offered(page: ModelAdmin, user: User) -> set[str]:
    """The actions that a list offers for its chosen rows."""
    return {f"{page.opts.model_name}: {name}" for name in page.get_actions(request_of(user))}


@pytest.mark.parametrize(
    ("role", "actions"),
    [
        ("administrator", {"turn: stop_chosen", "profile: delete_selected"}),
        ("operator", {"turn: stop_chosen"}),
        ("auditor", set()),
    ],
)
def test_a_role_is_offered_its_actions_for_chosen_rows(role: str, actions: set[str]) -> None:
    user = factories.person(role)

    assert set().union(*(offered(page, user) for page in pages())) == actions


@pytest.mark.parametrize("role", ROLES)
def test_chosen_turns_are_stopped_by_those_who_may(role: str) -> None:
    history(1)
    Turn.objects.update(outcome="open", phase="running", closed_at=None, run_ended_at=None)
    chosen = {"action": "stop_chosen", "_selected_action": [Turn.objects.get().pk]}

    signed_in(role).post(reverse("admin:chatgateway_turn_changelist"), chosen)

    assert (Turn.objects.get().cancel_requested_at is not None) == (role in {"administrator", "operator"})


@pytest.mark.parametrize("role", ROLES)
def test_chosen_profiles_are_deleted_by_those_who_may_and_that_is_recorded(role: str) -> None:
    profile = factories.profile(slug="old")
    chosen = {"action": "delete_selected", "_selected_action": [profile.pk], "post": "yes"}

    signed_in(role).post(reverse("admin:profiles_profile_changelist"), chosen)

    is_gone = not Profile.objects.exists()
    records = ChangeRecord.objects.filter(action="deleted", kind="profiles.profile", name="old")
    assert is_gone == (role == "administrator")
    assert records.count() == int(is_gone)
