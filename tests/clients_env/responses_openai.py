"""What OpenAI's SDK for Python makes of the Responses API, at its strictest: collected, streamed, its helper, parsed,
fetched, resumed, in the background, cancelled, deleted, listed, and conversations; the asynchronous client too. Reads
one JSON argument, prints one JSON line."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

from openai import AsyncOpenAI, BadRequestError, NotFoundError, OpenAI
from pydantic import BaseModel


class Person(BaseModel):
    name: str
    age: int


def texts(items: Any) -> list[str]:
    return [item.content[0].text for item in items]


def of_responses(client: OpenAI, model: str) -> dict[str, Any]:
    said: dict[str, Any] = {}
    first = client.responses.create(model=model, input="one")
    second = client.responses.create(model=model, input="two", previous_response_id=first.id)
    said["chained"] = [first.output_text, second.output_text]
    said["usage"] = second.usage.total_tokens
    said["stored"] = client.responses.retrieve(second.id) == second

    events = list(client.responses.create(model=model, input="three", stream=True))
    said["numbers"] = [event.sequence_number for event in events]
    said["deltas"] = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    resumed = client.responses.retrieve(events[0].response.id, stream=True, starting_after=3)
    said["resumed"] = [event.sequence_number for event in resumed]

    with client.responses.stream(model=model, input="look") as helper:
        for _ in helper:
            pass
        final = helper.get_final_response()
    said["helped"] = [item.type for item in final.output]
    with client.responses.stream(response_id=final.id, starting_after=1) as helper:
        said["helped_again"] = helper.get_final_response().output_text
    said["parsed"] = client.responses.parse(model=model, input="parse", text_format=Person).output_parsed.model_dump()

    task = client.responses.create(model=model, input="four", background=True)
    said["began"] = task.status
    while task.status in {"queued", "in_progress"}:
        time.sleep(0.05)
        task = client.responses.retrieve(task.id)
    said["background"] = [task.status, task.output_text]
    hanging = client.responses.create(model=model, input="hang", background=True)
    said["cancelled"] = client.responses.cancel(hanging.id).status

    said["items"] = texts(client.responses.input_items.list(second.id))
    client.responses.delete(second.id)
    try:
        client.responses.retrieve(second.id)
    except NotFoundError as error:
        said["deleted"] = error.code
    try:
        client.responses.create(model=model, input="x", previous_response_id="resp_" + "0" * 32)
    except BadRequestError as error:
        said["refused"] = [error.code, error.param]
    return said


def of_conversations(client: OpenAI, model: str) -> dict[str, Any]:
    made = client.conversations.create(metadata={"topic": "numbers"})
    client.conversations.update(made.id, metadata={"topic": "letters"})
    for text in ("a", "b"):
        client.responses.create(model=model, input=text, conversation=made.id)
    listed = list(client.conversations.items.list(made.id, order="asc", limit=2))
    item = client.conversations.items.retrieve(listed[1].id, conversation_id=made.id)
    return {
        "topic": client.conversations.retrieve(made.id).metadata["topic"],
        "conversation": texts(listed),
        "item": item.content[0].text,
        "conversation_deleted": client.conversations.delete(made.id).deleted,
    }


async def asynchronous(client: AsyncOpenAI, model: str) -> str:
    async with client, client.responses.stream(model=model, input="five") as helper:
        return (await helper.get_final_response()).output_text


asked = json.loads(sys.argv[1])
options = {
    "base_url": asked["baseURL"],
    "api_key": asked["apiKey"],
    "max_retries": 0,
    "_strict_response_validation": True,
}
with OpenAI(**options) as stock:
    found = of_responses(stock, asked["model"]) | of_conversations(stock, asked["model"])
found["asynchronous"] = asyncio.run(asynchronous(AsyncOpenAI(**options), asked["model"]))
print(json.dumps(found))
