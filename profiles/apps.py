from django.apps import AppConfig


class ProfilesConfig(AppConfig):
    name = "profiles"
    verbose_name = "Profiles and keys"

    def ready(self) -> None:
        from profiles import checks  # noqa: F401  registers itself
