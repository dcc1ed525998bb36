"""Who may call, and what they get: everything an administrator edits about callers and agents."""

from profiles.models.changes import ChangeRecord
from profiles.models.keys import ApiKey, ApiKeySecret, FailedAuthentication, new_key_prefix
from profiles.models.people import SignInIdentity
from profiles.models.profile import OnDisconnect, Profile, slug_validator
from profiles.models.tenants import Tenant

__all__ = [
    "ApiKey",
    "ApiKeySecret",
    "ChangeRecord",
    "FailedAuthentication",
    "OnDisconnect",
    "Profile",
    "SignInIdentity",
    "Tenant",
    "new_key_prefix",
    "slug_validator",
]
