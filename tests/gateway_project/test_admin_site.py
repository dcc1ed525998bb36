"""Signing in to the admin."""

from __future__ import annotations

from pathlib import Path

import pytest
from django.contrib.auth.models import Permission, User
from django.test import Client
from django.urls import reverse
from pytest_django import Settings

pytestmark = pytest.mark.django_db


@pytest.fixture
def first_login(settings: Settings, tmp_path: Path) -> Path:
    settings.DATA_DIR = tmp_path
    path = tmp_path / "first-login.txt"
    path.write_text("password")
    return path


def sign_in(username: str) -> Client:
    browser = Client()
    browser.post(reverse("admin:login"), {"username": username, "password": "x"})
    return browser


def test_the_first_login_file_is_gone_once_an_administrator_has_signed_in(first_login: Path) -> None:
    User.objects.create_superuser("root", password="x")

    sign_in("root")
    assert not first_login.exists()

    sign_in("root")  # a second time is no error


@pytest.mark.parametrize("password", ["wrong", "x"])
def test_nobody_else_removes_it(first_login: Path, password: str) -> None:
    User.objects.create_user("somebody", password="x")

    browser = Client()
    browser.post(reverse("admin:login"), {"username": "somebody", "password": password})

    assert first_login.exists()


def test_the_sign_in_page_itself_leads_to_the_overview() -> None:
    User.objects.create_superuser("root", password="x")

    response = Client().post(reverse("admin:login"), {"username": "root", "password": "x"})

    assert response.headers["Location"] == reverse("admin:index")


def test_the_navigation_offers_what_a_person_may_see() -> None:
    reader = User.objects.create_user("reader", password="x", is_staff=True)
    reader.user_permissions.set(Permission.objects.filter(codename="view_profile"))
    browser = Client()
    browser.force_login(reader)

    html = browser.get(reverse("admin:index")).content.decode()

    assert reverse("admin:profiles_profile_changelist") in html
    assert reverse("admin:auth_user_changelist") not in html
