from django.apps import AppConfig


class ChatgatewayConfig(AppConfig):
    name = "chatgateway"
    verbose_name = "Conversations and agent-servers"

    def ready(self) -> None:
        from chatgateway import checks  # noqa: F401  registers itself
