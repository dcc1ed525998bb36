from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone

from profiles import access
from profiles.models import ApiKey, Tenant
from tests import factories

pytestmark = pytest.mark.django_db


def mint(*arguments):
    out, err = StringIO(), StringIO()
    call_command("mint_key", *arguments, stdout=out, stderr=err)
    return out.getvalue().strip(), err.getvalue()


def test_the_key_alone_goes_to_standard_output_and_works():
    factories.tenant(name="ACME")
    text, said = mint("--tenant", "ACME", "--name", "laptop")
    caller = access.caller_for(text, now=timezone.now())
    assert (caller.tenant_name, caller.key_name, caller.can_chat, caller.can_manage) == ("ACME", "laptop", True, False)
    assert text not in said


def test_options_reach_the_key():
    factories.tenant(name="ACME")
    profile = factories.profile(slug="fast")
    text, _ = mint(
        *("--tenant", "ACME", "--name", "ci", "--global", "--no-chat", "--one-person", "--own-conversations"),
        *("--profile", "fast", "--expires-days", "2"),
    )
    caller = access.caller_for(text, now=timezone.now())
    assert (caller.can_chat, caller.can_manage, caller.is_global) == (False, True, True)
    assert (caller.used_by_one_person, caller.only_own_conversations) == (True, True)
    assert caller.allowed_profile_ids == frozenset({profile.pk})
    expires_at = ApiKey.objects.get().expires_at
    assert expires_at is not None
    assert 1.9 < (expires_at - timezone.now()).total_seconds() / 86_400 <= 2


def test_a_new_tenant_is_made_only_when_asked_for():
    with pytest.raises(CommandError, match="There is no tenant 'ACNE'"):
        mint("--tenant", "ACNE", "--name", "laptop")
    assert not Tenant.objects.exists()
    mint("--tenant", "ACME", "--new-tenant", "--name", "laptop")
    assert Tenant.objects.get().name == "ACME"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--profile", "nosuch"], "There is no profile 'nosuch'"),
        (["--no-chat"], "no scope"),
        (["--expires-days", "0"], "--expires-days"),
        (["--expires-days", "nan"], "--expires-days"),
        (["--name", "taken"], "of that name"),
    ],
)
def test_what_cannot_be_made_is_said_in_one_sentence(arguments, message):
    factories.api_key(tenant=factories.tenant(name="ACME"), name="taken")
    with pytest.raises(CommandError, match=message):
        mint("--tenant", "ACME", "--name", "laptop", *arguments)
    assert ApiKey.objects.count() == 1
