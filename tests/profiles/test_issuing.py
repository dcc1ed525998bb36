import datetime as dt

import pytest
from django.db import transaction
from django.utils import timezone

from profiles import access, issuing, keys
from profiles.exceptions import InvalidKey, UnknownKey
from profiles.models import ApiKey, ApiKeySecret
from tests import factories
from tests.profiles.together import at_once

LATER = dt.timedelta(hours=1)
GIVEN = "an-operators-own-text-of-enough-characters"


def works(text):
    try:
        return access.caller_for(text, now=timezone.now())
    except UnknownKey:
        return None


@pytest.mark.django_db
def test_a_new_key_works_and_only_its_digest_is_stored():
    api_key, text = issuing.create_key(tenant=factories.tenant(), name="laptop")
    assert works(text).api_key_id == api_key.pk
    stored = ApiKeySecret.objects.values().get(api_key=api_key)
    assert text.rpartition("-")[2] not in str(stored)
    assert text[3:11] == stored["prefix"]


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"name": ""}, "name"),
        ({"name": "x" * 101}, "name"),
        ({"is_global": True}, "is_global"),
        ({"can_chat": False}, "can_chat"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(fields, param):
    with pytest.raises(InvalidKey) as refused:
        issuing.create_key(**{"tenant": factories.tenant(), "name": "laptop"} | fields)
    assert refused.value.param == param
    assert not ApiKey.objects.exists()


@pytest.mark.django_db
def test_two_keys_of_a_tenant_cannot_have_one_name():
    made = factories.api_key(name="laptop")
    with pytest.raises(InvalidKey, match="of that name"):
        issuing.create_key(tenant=made.row.tenant, name="laptop")
    factories.api_key(name="laptop")


@pytest.mark.django_db
def test_a_key_cannot_be_given_another_tenants_profile():
    foreign = factories.profile(slug="foreign", owner=factories.tenant())
    with pytest.raises(InvalidKey, match="belongs to another tenant"):
        issuing.create_key(tenant=factories.tenant(), name="laptop", profiles=[foreign])
    assert not ApiKey.objects.exists()


@pytest.mark.django_db
def test_changing_a_key_is_seen_at_once_and_keeps_when_it_was_used():
    made = factories.api_key()
    assert works(made.text).can_manage
    used_at = timezone.now()
    ApiKey.objects.filter(pk=made.row.pk).update(last_used_at=used_at)
    made.row.can_manage = False
    issuing.save_key(made.row)
    assert not works(made.text).can_manage
    assert ApiKey.objects.get(pk=made.row.pk).last_used_at == used_at


@pytest.mark.django_db
def test_limiting_a_key_to_profiles_is_seen_at_once_and_can_be_lifted():
    made, profile = factories.api_key(), factories.profile()
    assert works(made.text).allowed_profile_ids is None
    issuing.allow_profiles(made.row, [profile])
    assert works(made.text).allowed_profile_ids == {profile.pk}
    issuing.allow_profiles(made.row, None)
    assert works(made.text).allowed_profile_ids is None


# --- rotation


@pytest.mark.django_db
def test_rotation_keeps_the_key_and_lets_the_old_secret_run_out():
    made = factories.api_key()
    expires_at = timezone.now() + LATER
    text = issuing.add_secret(made.row, old_expire_at=expires_at)
    assert works(text).api_key_id == works(made.text).api_key_id == made.row.pk
    with pytest.raises(UnknownKey) as refused:
        access.caller_for(made.text, now=expires_at)
    assert refused.value.reason == UnknownKey.EXPIRED
    assert access.caller_for(text, now=expires_at).api_key_id == made.row.pk


@pytest.mark.django_db
def test_an_old_secret_that_ends_sooner_is_not_prolonged():
    made = factories.api_key()
    soon = timezone.now() + dt.timedelta(minutes=1)
    ApiKeySecret.objects.filter(api_key=made.row).update(expires_at=soon)
    issuing.add_secret(made.row, old_expire_at=soon + LATER)
    assert ApiKeySecret.objects.get(prefix=made.text[3:11]).expires_at == soon


@pytest.mark.django_db
def test_a_third_live_secret_is_refused_until_one_has_ended():
    made = factories.api_key()
    issuing.add_secret(made.row, old_expire_at=None)
    with pytest.raises(InvalidKey, match="two secrets"):
        issuing.add_secret(made.row, old_expire_at=timezone.now() + LATER)
    issuing.expire_secret(ApiKeySecret.objects.get(prefix=made.text[3:11]), at=timezone.now())
    assert works(made.text) is None
    assert works(issuing.add_secret(made.row, old_expire_at=None)) is not None


@pytest.mark.django_db(transaction=True)
def test_of_several_administrators_at_once_one_adds_the_second_secret():
    made = factories.api_key()
    outcomes = at_once(lambda _: issuing.add_secret(made.row, old_expire_at=None), times=4)
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["InvalidKey", "InvalidKey", "InvalidKey", "str"]
    assert issuing.live_secrets(made.row, now=timezone.now()).count() == issuing.LIVE_SECRETS


# --- the end


@pytest.mark.django_db
def test_a_revoked_key_stops_at_once_and_keeps_its_first_reason():
    made = factories.api_key()
    assert works(made.text)
    issuing.revoke(made.row, reason=" leaked ")
    assert works(made.text) is None
    issuing.revoke(made.row, reason="again")
    assert ApiKey.objects.get(pk=made.row.pk).revoked_reason == "leaked"
    with pytest.raises(InvalidKey, match="revoked: leaked"):
        issuing.add_secret(made.row, old_expire_at=None)


@pytest.mark.django_db
@pytest.mark.parametrize("reason", ["", "  "])
def test_revoking_needs_a_reason(reason):
    made = factories.api_key()
    with pytest.raises(InvalidKey) as refused:
        issuing.revoke(made.row, reason=reason)
    assert refused.value.param == "reason"
    assert works(made.text)


@pytest.mark.django_db(transaction=True)
def test_a_key_read_again_before_the_commit_is_forgotten_after_it():
    made = factories.api_key()
    with transaction.atomic():
        issuing.revoke(made.row, reason="lost")
        # Another thread, which cannot see the uncommitted row, remembers the key anew.
        access._callers[factories.digest(made.text)] = access._KnownCaller(
            caller=access.Caller(
                api_key_id=made.row.pk,
                key_name="",
                key_prefix="",
                tenant_id=made.row.tenant_id,
                tenant_name="",
                can_chat=True,
                can_manage=False,
                is_global=False,
                allowed_profile_ids=None,
                only_own_conversations=False,
                used_by_one_person=False,
            ),
            expires_at=None,
            looked_up_at=timezone.now(),
        )
    assert works(made.text) is None


@pytest.mark.django_db
def test_only_secrets_that_ended_long_ago_are_deleted():
    made = factories.api_key()
    now = timezone.now()
    issuing.add_secret(made.row, old_expire_at=now - LATER)
    assert issuing.delete_expired_secrets(before=now - 2 * LATER) == 0
    assert issuing.delete_expired_secrets(before=now) == 1
    assert issuing.delete_expired_secrets(before=now) == 0
    assert ApiKey.objects.filter(pk=made.row.pk).exists()


# --- a text that the operator gives


@pytest.mark.django_db
def test_a_given_text_is_a_key_of_its_own_form_beside_the_minted_one():
    made = factories.api_key()
    issuing.adopt_text(made.row, GIVEN)
    issuing.adopt_text(made.row, GIVEN)
    assert works(GIVEN).api_key_id == works(made.text).api_key_id == made.row.pk
    assert ApiKeySecret.objects.filter(api_key=made.row).count() == 2


@pytest.mark.django_db
def test_another_text_replaces_the_one_before_and_it_can_come_back():
    made = factories.api_key()
    issuing.adopt_text(made.row, GIVEN)
    issuing.adopt_text(made.row, GIVEN + "-new")
    assert works(GIVEN) is None
    assert works(GIVEN + "-new")
    assert works(made.text)
    issuing.adopt_text(made.row, GIVEN)
    assert works(GIVEN)
    assert works(GIVEN + "-new") is None


@pytest.mark.django_db
def test_of_more_than_two_secrets_the_oldest_stops():
    made = factories.api_key()
    second = issuing.add_secret(made.row, old_expire_at=None)
    issuing.adopt_text(made.row, GIVEN)
    assert works(made.text) is None
    assert works(second)
    assert works(GIVEN)


@pytest.mark.django_db
def test_a_text_in_the_form_of_a_minted_key_is_found_by_its_own_prefix():
    text = keys.mint(pepper="another gateway's").text
    made = factories.api_key()
    issuing.adopt_text(made.row, text)
    assert works(text).key_prefix == text[3:11]


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("text", "message"), [("x" * 31, "32 to 512"), ("with spaces " * 5, "visible ASCII"), ("", "32 to 512")]
)
def test_a_weak_text_is_refused(text, message):
    made = factories.api_key()
    with pytest.raises(InvalidKey, match=message):
        issuing.adopt_text(made.row, text)
    assert ApiKeySecret.objects.count() == 1


@pytest.mark.django_db
def test_a_text_cannot_belong_to_two_keys_nor_wake_a_revoked_one():
    first, second = factories.api_key(), factories.api_key()
    issuing.adopt_text(first.row, GIVEN)
    with pytest.raises(InvalidKey, match="somebody else"):
        issuing.adopt_text(second.row, GIVEN)
    issuing.revoke(first.row, reason="over")
    with pytest.raises(InvalidKey, match="revoked"):
        issuing.adopt_text(first.row, GIVEN)
    assert works(GIVEN) is None


@pytest.mark.django_db
def test_no_representation_shows_a_secret():
    made = factories.api_key()
    secret = ApiKeySecret.objects.get(api_key=made.row)
    shown = f"{made.row!r} {made.row} {secret!r} {secret} {works(made.text)!r}"
    assert made.text.rpartition("-")[2] not in shown
    assert secret.digest not in shown
    assert secret.prefix in shown
