import datetime as dt

import pytest
from django.db import connection
from django.utils import timezone

from profiles import access
from profiles.exceptions import UnknownKey, UnknownProfile
from profiles.models import ApiKey, ApiKeySecret, Profile
from tests import factories

pytestmark = pytest.mark.django_db

NOW = dt.datetime(2026, 6, 1, 12, 0, tzinfo=dt.UTC)


def after(seconds):
    return NOW + dt.timedelta(seconds=seconds)


@pytest.fixture
def made():
    return factories.api_key(name="laptop")


def caller_of(made):
    return access.caller_for(made.text, now=NOW)


def reason_of(text, now=NOW):
    with pytest.raises(UnknownKey) as refused:
        access.caller_for(text, now=now)
    return refused.value.reason


# --- who is calling


def test_a_caller_is_everything_the_row_says():
    tenant = factories.tenant(name="ACME")
    allowed = factories.profile()
    made = factories.api_key(
        tenant=tenant,
        name="laptop",
        is_global=True,
        profiles=[allowed],
        only_own_conversations=True,
        used_by_one_person=True,
    )
    assert access.caller_for(made.text, now=NOW) == access.Caller(
        api_key_id=made.row.pk,
        key_name="laptop",
        key_prefix=made.text[3:11],
        tenant_id=tenant.pk,
        tenant_name="ACME",
        can_chat=True,
        can_manage=True,
        is_global=True,
        allowed_profile_ids=frozenset({allowed.pk}),
        only_own_conversations=True,
        used_by_one_person=True,
    )


def test_refused_keys_are_told_apart_for_the_books_only(made):
    revoked, expired, old_secret = factories.api_key(), factories.api_key(), factories.api_key()
    ApiKey.objects.filter(pk=revoked.row.pk).update(revoked_at=NOW, revoked_reason="lost")
    ApiKey.objects.filter(pk=expired.row.pk).update(expires_at=NOW)
    ApiKeySecret.objects.filter(api_key=old_secret.row).update(expires_at=NOW)
    assert reason_of("sk-whatever") == UnknownKey.MALFORMED
    assert reason_of("gw-00000000-" + "x" * 43) == UnknownKey.UNKNOWN
    assert reason_of(made.text[:-4] + "AAAA") == UnknownKey.WRONG
    assert reason_of(revoked.text) == UnknownKey.REVOKED
    assert reason_of(expired.text) == UnknownKey.EXPIRED
    assert reason_of(old_secret.text) == UnknownKey.EXPIRED


@pytest.mark.parametrize("text", ["", "x" * 100_000, "\ud800" * 40, "\x00" * 40, "é" * 40])
def test_odd_texts_are_refused_without_a_query(text, django_assert_num_queries):
    with django_assert_num_queries(0):
        assert access.cached_caller(text, now=NOW) is None
        assert reason_of(text) == UnknownKey.MALFORMED


def test_a_caller_is_remembered_for_the_cache_time_and_no_longer(made, settings, django_assert_num_queries):
    settings.GATEWAY_CACHE_SECONDS = 5
    assert access.cached_caller(made.text, now=NOW) is None
    caller = caller_of(made)
    with django_assert_num_queries(0):
        assert access.caller_for(made.text, now=after(4.9)) is caller
        assert access.cached_caller(made.text, now=after(4.9)) is caller
        assert access.cached_caller(made.text, now=after(5)) is None
    with django_assert_num_queries(1):
        access.caller_for(made.text, now=after(5))


def test_nothing_is_remembered_when_the_cache_time_is_zero(made, settings):
    settings.GATEWAY_CACHE_SECONDS = 0
    caller_of(made)
    assert access.cached_caller(made.text, now=NOW) is None


def test_a_clock_that_was_set_back_prolongs_nothing(made):
    caller_of(made)
    assert access.cached_caller(made.text, now=after(-1)) is None


def test_expiry_counts_even_for_a_remembered_key(made):
    ApiKey.objects.filter(pk=made.row.pk).update(expires_at=after(2))
    caller_of(made)
    assert access.cached_caller(made.text, now=after(1)) is not None
    assert access.cached_caller(made.text, now=after(2)) is None
    assert reason_of(made.text, now=after(2)) == UnknownKey.EXPIRED


def test_a_key_that_was_not_found_is_looked_up_again_at_once():
    text = "gw-0a1b2c3d-" + "x" * 43
    assert reason_of(text) == UnknownKey.UNKNOWN
    made = factories.api_key()
    ApiKeySecret.objects.filter(api_key=made.row).update(prefix="0a1b2c3d", digest=factories.digest(text))
    assert access.caller_for(text, now=NOW).api_key_id == made.row.pk


def test_a_row_read_before_a_change_is_not_remembered_after_it(made):
    def change_meanwhile(execute, *arguments):
        rows = execute(*arguments)
        access.forget_key(made.row.pk)
        return rows

    with connection.execute_wrapper(change_meanwhile):
        caller_of(made)
    assert access.cached_caller(made.text, now=NOW) is None


def test_forgetting_a_key_forgets_all_of_its_secrets_and_no_other_key(made):
    other = factories.api_key()
    caller_of(made)
    caller_of(other)
    access.forget_key(made.row.pk)
    assert access.cached_caller(made.text, now=NOW) is None
    assert access.cached_caller(other.text, now=NOW) is not None


def test_no_key_text_is_kept_in_memory(made):
    caller_of(made)
    kept = repr(vars(access))
    assert made.text not in kept
    assert made.text.split("-", 2)[2] not in kept  # the secret itself may hold a hyphen


# --- keeping warm


def test_what_was_used_lately_is_still_remembered_after_a_refresh(made, settings, django_assert_num_queries):
    settings.GATEWAY_CACHE_SECONDS = 5
    factories.profile(slug="fast")
    caller = caller_of(made)
    access.profile_for(caller, "fast", now=NOW)

    with django_assert_num_queries(2):
        access.refresh(now=after(4))

    with django_assert_num_queries(0):
        assert access.caller_for(made.text, now=after(8)) == caller
        assert access.profile_for(caller, "fast", now=after(8)).slug == "fast"
        assert access.cached_caller(made.text, now=after(9)) is None


def test_a_refresh_does_not_prolong_what_was_changed_elsewhere(made, settings):
    settings.GATEWAY_CACHE_SECONDS = 5
    factories.profile(slug="fast")
    revoked, limited = factories.api_key(), factories.api_key(profiles=[])
    for key in (made, revoked, limited):
        caller_of(key)
    access.profile_for(caller_of(made), "fast", now=NOW)
    ApiKey.objects.filter(pk=made.row.pk).update(name="renamed")
    ApiKey.objects.filter(pk=revoked.row.pk).update(revoked_at=NOW, revoked_reason="lost")
    limited.row.allowed_profiles.add(Profile.objects.get())
    Profile.objects.update(is_enabled=False)

    access.refresh(now=after(1))

    assert access.cached_caller(made.text, now=after(1)).key_name == "renamed"
    assert access.cached_caller(limited.text, now=after(1)).allowed_profile_ids == {Profile.objects.get().pk}
    assert access.cached_caller(revoked.text, now=after(1)) is None
    assert access.cached_profile_for(caller_of(made), "fast", now=after(1)) is None


def test_what_nobody_uses_is_forgotten(made, django_assert_num_queries):
    caller_of(made)

    with django_assert_num_queries(0):
        access.refresh(now=after(access.KEPT_WARM_SECONDS + 1))

    assert access.cached_caller(made.text, now=NOW) is None


def test_a_refresh_that_was_overtaken_by_a_change_is_thrown_away(made):
    caller_of(made)

    def change_meanwhile(execute, *arguments):
        rows = execute(*arguments)
        access.forget_key(made.row.pk)
        return rows

    with connection.execute_wrapper(change_meanwhile):
        access.refresh(now=after(1))

    assert access.cached_caller(made.text, now=after(1)) is None


# --- what they may use


@pytest.fixture
def caller(made):
    return caller_of(made)


def is_refused(caller, slug, now=NOW):
    with pytest.raises(UnknownProfile):
        access.profile_for(caller, slug, now=now)
    return True


def test_unknown_disabled_foreign_and_forbidden_profiles_are_refused_alike(made):
    usable = factories.profile(slug="usable")
    factories.profile(slug="disabled", is_enabled=False)
    factories.profile(slug="foreign", owner=factories.tenant())
    factories.profile(slug="forbidden")
    limited = caller_of(factories.api_key(tenant=made.row.tenant, profiles=[usable]))
    assert access.profile_for(limited, "usable", now=NOW) == usable
    assert is_refused(limited, "unknown")
    assert is_refused(limited, "disabled")
    assert is_refused(limited, "foreign")
    assert is_refused(limited, "forbidden")


def test_a_tenant_uses_its_own_profile(made, caller):
    own = factories.profile(slug="own", owner=made.row.tenant)
    assert access.profile_for(caller, "own", now=NOW) == own


@pytest.mark.parametrize("slug", ["FAST", "Fast", "", " fast", "fast\n", "f\x00", "\ud800", "x" * 500, "a/b"])
def test_names_are_exact(caller, slug):
    factories.profile(slug="fast")
    assert is_refused(caller, slug)
    assert access.profile_for(caller, "fast", now=NOW).slug == "fast"


def test_a_profile_is_remembered_for_the_cache_time_and_no_longer(caller, settings, django_assert_num_queries):
    settings.GATEWAY_CACHE_SECONDS = 5
    factories.profile(slug="fast")
    assert access.cached_profile_for(caller, "fast", now=NOW) is None
    profile = access.profile_for(caller, "fast", now=NOW)
    with django_assert_num_queries(0):
        assert access.profile_for(caller, "fast", now=after(4.9)) is profile
        assert access.cached_profile_for(caller, "fast", now=after(5)) is None


def test_a_remembered_profile_is_not_shown_to_who_may_not_use_it(caller):
    factories.profile(slug="fast")
    access.profile_for(caller, "fast", now=NOW)
    stranger = caller_of(factories.api_key(profiles=[]))
    assert access.cached_profile_for(stranger, "fast", now=NOW) is None
    assert is_refused(stranger, "fast")


def test_a_change_elsewhere_is_seen_when_the_cache_time_is_over(caller, settings):
    settings.GATEWAY_CACHE_SECONDS = 5
    factories.profile(slug="fast")
    access.profile_for(caller, "fast", now=NOW)
    Profile.objects.filter(slug="fast").update(is_enabled=False)
    assert access.profile_for(caller, "fast", now=after(4)).slug == "fast"
    assert is_refused(caller, "fast", now=after(5))


def test_a_change_in_this_process_is_seen_at_once(caller):
    factories.profile(slug="fast")
    access.profile_for(caller, "fast", now=NOW)
    Profile.objects.filter(slug="fast").update(is_enabled=False)
    access.forget_profile("fast")
    assert is_refused(caller, "fast")


def test_a_new_profile_and_a_new_grant_work_at_once():
    made = factories.api_key(profiles=[])
    limited = caller_of(made)
    assert is_refused(limited, "fast")
    profile = factories.profile(slug="fast")
    assert is_refused(limited, "fast")
    made.row.allowed_profiles.add(profile)
    assert access.profile_for(limited, "fast", now=NOW) == profile


def test_a_key_that_may_now_use_all_profiles_does_so_at_once():
    made = factories.api_key(profiles=[])
    limited = caller_of(made)
    factories.profile(slug="fast")
    ApiKey.objects.filter(pk=made.row.pk).update(allows_all_profiles=True)
    assert access.profile_for(limited, "fast", now=NOW).slug == "fast"
    assert [profile.slug for profile in access.profiles_for(limited)] == ["fast"]


def test_the_list_has_exactly_what_can_be_used_in_order(made, caller, django_assert_num_queries):
    second, first = factories.profile(slug="b"), factories.profile(slug="a")
    factories.profile(slug="own", owner=made.row.tenant)
    factories.profile(slug="disabled", is_enabled=False)
    factories.profile(slug="foreign", owner=factories.tenant())
    with django_assert_num_queries(1):
        assert [profile.slug for profile in access.profiles_for(caller)] == ["a", "b", "own"]
    limited = caller_of(factories.api_key(profiles=[second, first]))
    with django_assert_num_queries(1):
        assert access.profiles_for(limited) == [first, second]


def test_a_profile_whose_secret_cannot_be_read_does_not_spoil_the_list(caller):
    factories.profile(slug="broken")
    with connection.cursor() as cursor:
        cursor.execute("UPDATE profiles_profile SET llm_api_key = 'not a token'")
    assert [profile.slug for profile in access.profiles_for(caller)] == ["broken"]


async def test_what_is_remembered_can_be_asked_on_an_event_loop():
    from asgiref.sync import sync_to_async

    made = await sync_to_async(factories.api_key)()
    await sync_to_async(factories.profile)(slug="fast")
    now = timezone.now()
    caller = await sync_to_async(access.caller_for)(made.text, now=now)
    await sync_to_async(access.profile_for)(caller, "fast", now=now)
    assert access.cached_caller(made.text, now=now) is caller
    assert access.cached_profile_for(caller, "fast", now=now) is not None
