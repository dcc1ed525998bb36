"""Programs to paste for whoever has a key: they name this gateway's address and a model that the key may use."""

from __future__ import annotations

from dataclasses import dataclass

from django.conf import settings
from django.db.models import QuerySet

from profiles.models import ApiKey, Profile

# Where a program reads the key from when its text is not at hand.
VARIABLE = "GATEWAY_KEY"

_CURL = """curl -N {base_url}/chat/completions \\
  -H "Authorization: Bearer {key}" \\
  -H "Content-Type: application/json" \\
  -d '{{"model": "{model}", "stream": true,
       "messages": [{{"role": "user", "content": "What can you do?"}}]}}'"""
_CURL_MANAGE = """curl {api_url}/profiles -H "Authorization: Bearer {key}\""""
_PYTHON = """{imports}from openai import OpenAI

client = OpenAI(base_url="{base_url}", api_key={key})
stream = client.chat.completions.create(
    model="{model}",
    messages=[{{"role": "user", "content": "What can you do?"}}],
    stream=True,
)
for chunk in stream:
    if chunk.choices:
        print(chunk.choices[0].delta.content or "", end="", flush=True)
print()"""
_JAVASCRIPT = """import OpenAI from "openai";

const client = new OpenAI({{
  baseURL: "{base_url}",
  apiKey: {key},
}});
const stream = await client.chat.completions.create({{
  model: "{model}",
  messages: [{{ role: "user", content: "What can you do?" }}],
  stream: true,
}});
for await (const chunk of stream) process.stdout.write(chunk.choices[0]?.delta.content ?? "");
console.log();"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snippet:
    """`name` is its id in the page."""

    name: str
    title: str
    text: str


def base_url() -> str:
    return f"{settings.GATEWAY_PUBLIC_URL}/v1"


def usable_profiles(key: ApiKey) -> QuerySet[Profile]:
    """Return the enabled profiles that the key may use, by name."""
    rows = Profile.objects.usable().visible_to_tenant(key.tenant_id)
    if not key.allows_all_profiles:
        rows = rows.filter(api_keys=key)
    return rows.order_by("slug")


def snippets(key: ApiKey, *, model_id: str, secret: str | None = None) -> list[Snippet]:
    """Return programs for what the key may do. Without its `secret` they read it from the environment."""
    if not key.can_chat:
        text = _CURL_MANAGE.format(api_url=f"{settings.GATEWAY_PUBLIC_URL}/api", key=secret or f"${VARIABLE}")
        return [Snippet(name="curl", title="In a terminal", text=text)]
    where = {"base_url": base_url(), "model": model_id}
    quoted = f'"{secret}"'
    return [
        Snippet(
            name="curl",
            title="In a terminal",
            text=_CURL.format(**where, key=secret or f"${VARIABLE}"),
        ),
        Snippet(
            name="python",
            title="In Python, with the openai package",
            text=_PYTHON.format(
                **where,
                key=quoted if secret else f'os.environ["{VARIABLE}"]',
                imports="" if secret else "import os\n\n",
            ),
        ),
        Snippet(
            name="javascript",
            title="In JavaScript, with the openai package (a .mjs file, run by Node.js)",
            text=_JAVASCRIPT.format(**where, key=quoted if secret else f"process.env.{VARIABLE}"),
        ),
    ]
