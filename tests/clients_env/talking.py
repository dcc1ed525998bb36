"""What a person does in a chat, played by one client: says something, goes back and says something else, stops.

A script gives `play` a class with these methods, each in the client's own idiom, and the exceptions that its users
have to expect:

    say(text)           ask, and keep question and answer; return the answer
    stream(text)        the same, streamed
    stop(text, after)   streamed, and left when `after` has arrived; the answer is kept as far as it came
    parse(text)         ask for a person's name and age; return them as a dict
    back(turns)         forget all but so many turns, as who edits a message does

The script reads one JSON argument with the `steps`, [["say", "Hi"], ["back", 0], …], and prints one JSON line: what
each came to, an error included.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from pydantic import BaseModel


class Person(BaseModel):
    name: str
    age: int


class Talk:
    """Base of those clients that keep a list with one question and one answer for each turn."""

    errors: tuple[type[Exception], ...] = ()

    def __init__(self, given: dict[str, Any]) -> None:
        self.given = given
        self.messages: list[Any] = []

    def back(self, turns: int) -> None:
        del self.messages[2 * turns :]


def play(client: type[Any]) -> None:
    given = json.loads(sys.argv[1])
    talk = client(given)
    print(json.dumps({"said": [_done(talk, *step) for step in given["steps"]]}))


def _done(talk: Any, deed: str, *arguments: Any) -> Any:
    try:
        return getattr(talk, deed)(*arguments)
    except talk.errors as error:
        return {"error": type(error).__name__, "message": str(error)}
