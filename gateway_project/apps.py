from django.apps import AppConfig
from django.contrib.admin import apps as admin_apps  # its class by name here would become this module's default
from django.contrib.auth.signals import user_logged_in


class GatewayAdminConfig(admin_apps.AdminConfig):
    """Django's admin with our site in place of its own; unfold's automatic one is switched off in INSTALLED_APPS."""

    default = False  # this module's other class is the application's own
    default_site = "gateway_project.admin_site.GatewayAdminSite"


class GatewayProjectConfig(AppConfig):
    name = "gateway_project"
    verbose_name = "Gateway"

    def ready(self) -> None:
        from gateway_project import checks  # noqa: F401  # registers them
        from gateway_project.admin_site import remove_first_login

        user_logged_in.connect(remove_first_login, dispatch_uid="remove-first-login")
