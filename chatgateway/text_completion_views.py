"""`POST /v1/completions`, OpenAI's older endpoint: for clients that call it by default, such as LlamaIndex."""

from __future__ import annotations

from chatgateway.live import LiveTurn
from chatgateway.openai_api import text_completion
from chatgateway.openai_api.chat_request import ChatRequest
from chatgateway.openai_api.text_completion import TextReply, TextStream
from chatgateway.views import ChatCompletionsView


class CompletionsView(ChatCompletionsView):
    """The prompt is a user's one message; everything else is as in a chat completion."""

    endpoint = "completions"
    parse = staticmethod(text_completion.parse)

    def reply(self, live: LiveTurn, chat: ChatRequest) -> TextReply:
        return TextReply(reply_id=live.reply_id, created=live.created, model=chat.model)

    def stream(self, live: LiveTurn, chat: ChatRequest) -> TextStream:
        return TextStream(
            reply_id=live.reply_id, created=live.created, model=chat.model, include_usage=chat.include_usage
        )
