"""An answer that is to be JSON: is it? If not, the agent is asked for it once more, in the same conversation and turn.

What the second run writes, does and costs stands in the turn's own books. An answer that was cut short by its token
limit is not asked for again: it would be cut again, and `finish_reason` says what became of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from chatgateway.agent_session import AgentSession, message_parts
from chatgateway.endings import Run
from chatgateway.openai_api import structured_output
from chatgateway.openai_api.structured_output import NotAsAsked, OutputFormat
from chatgateway.openai_api.transcript import TextPart


async def have_it_as_asked(
    run: Run, output: OutputFormat | None, session: AgentSession, follow: Callable[[AgentSession], Awaitable[None]]
) -> None:
    """Note in `run` the JSON of its answer, or what is wrong with it when it was asked for again.

    `follow` brings a run in the session to its end.
    """
    if output is None:
        return
    await _check(run, output)
    # A process that died may have asked already: then the log holds two messages, and this was the second answer.
    if not run.output_problem or run.stopped_by or run.user_messages > 1:
        return
    run.begin_again()
    await session.send(message_parts((TextPart(text=structured_output.correction(run.output_problem)),)))
    await follow(session)
    await _check(run, output)


async def _check(run: Run, output: OutputFormat) -> None:
    run.output = run.output_problem = ""
    if run.ended is None or run.ended.status != "finished":
        return
    try:
        run.output = await asyncio.to_thread(structured_output.json_in, run.showing.answer, output)
    except NotAsAsked as problem:
        if not run.was_cut_short:
            run.output_problem = str(problem)
