from django.apps import AppConfig


class ChatgatewayConfig(AppConfig):
    name = "chatgateway"
    verbose_name = "Conversations and agent-servers"
