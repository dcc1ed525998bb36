"""The pages on which administrators decide who may call and what they get."""

from profiles.admin import caller_pages, key_pages, profile_pages, recorded

__all__ = ["caller_pages", "key_pages", "profile_pages", "recorded"]
