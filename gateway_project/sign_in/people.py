"""The user of the admin behind somebody whom the provider vouches for, with the roles that their groups give."""

from __future__ import annotations

import hashlib
import re
from urllib.parse import urlsplit

from django.conf import settings
from django.contrib.auth.models import Group, User
from django.db import IntegrityError, transaction

from gateway_project.sign_in.failures import SignInFailed
from gateway_project.sign_in.openid import Person
from profiles import changes
from profiles.models import ChangeRecord, SignInIdentity

# Groups made by the migrations; membership of these, and of no other, follows the provider.
ROLES = frozenset({"administrator", "operator", "auditor"})
_LONGEST_NAME = 150
# So often the name or the person may have been taken in the moment between looking and writing.
_TRIES = 3


def user_of(person: Person, *, address: str) -> User:
    """Return their user, made if this is the first time, with roles as the provider has them now.

    What changes by that is recorded. Raises SignInFailed for people without a role, whose user loses what it had,
    and for those whom an administrator has deactivated.
    """
    by = changes.Actor(
        by=ChangeRecord.By.PROGRAM, name=f"sign-in through {urlsplit(person.issuer).netloc}", address=address
    )
    roles = {settings.GATEWAY_OIDC_ROLES[group] for group in person.groups & set(settings.GATEWAY_OIDC_ROLES)}
    user = _known(person)
    if user is None and roles:
        user = _made(person, by=by)
    if user is not None:
        with changes.recorded(user, by=by, note=f"As {person.issuer} has it."):
            _update(user, person, roles)
    if user is None or not roles:
        raise SignInFailed(
            "You are known there, but none of your groups has a role in this gateway. Whoever runs it can give one of "
            "your groups a role (GATEWAY_OIDC_ROLES).",
            reason=f"{person.subject} has no group with a role, but {', '.join(sorted(person.groups))[:300] or 'none'}",
        )
    if not user.is_active:
        raise SignInFailed("Your user in this gateway is deactivated.", reason=f"{user.get_username()} is not active")
    return user


# --- inside -------------------------------------------------------------------------------------------------------


def _known(person: Person) -> User | None:
    return User.objects.filter(identities__issuer=person.issuer, identities__subject=person.subject).first()


def _made(person: Person, *, by: changes.Actor) -> User:
    for attempt in range(_TRIES):
        try:
            with transaction.atomic():
                user = User.objects.create_user(_free_name(person))  # without a password: none is right
                SignInIdentity.objects.create(user=user, issuer=person.issuer, subject=person.subject)
                changes.added(user, by=by, note=f"First sign-in of {person.subject} at {person.issuer}."[:300])
                return user
        except IntegrityError:
            if (user_of_another_tab := _known(person)) is not None:
                return user_of_another_tab
            if attempt == _TRIES - 1:
                raise
    raise AssertionError("unreachable")


def _free_name(person: Person) -> str:
    """A name nobody has: never that of a user who was here before, whoever calls themselves so at the provider."""
    wanted = re.sub(r"[^\w.@+-]", "_", person.username)[:_LONGEST_NAME]
    host = urlsplit(person.issuer).hostname or "oidc"
    digest = hashlib.sha256(f"{person.issuer} {person.subject}".encode()).hexdigest()[:16]
    for name in (wanted, f"{wanted}@{host}"[:_LONGEST_NAME]):
        if name and not User.objects.filter(username__iexact=name).exists():
            return name
    return f"oidc-{digest}"


def _update(user: User, person: Person, roles: set[str]) -> None:
    first, _, last = person.full_name.partition(" ")
    user.first_name, user.last_name, user.email = first[:150], last[:150], person.email[:254]
    user.is_staff = bool(roles)
    user.is_superuser = "superuser" in roles
    user.save(update_fields=["first_name", "last_name", "email", "is_staff", "is_superuser"])
    user.groups.remove(*user.groups.filter(name__in=ROLES - roles))
    user.groups.add(*Group.objects.filter(name__in=ROLES & roles))
