"""The event feed: catching up, following, coming back; and every way in which a connection goes wrong."""

from __future__ import annotations

import asyncio
import uuid
from datetime import UTC, datetime, timedelta

import pytest

from chatgateway.agentserver.exceptions import ConversationMissing, FeedLost, Rejected, Unauthorized, Unreachable
from chatgateway.agentserver.schemas import Delta, DurableEvent, Reconnected, State
from chatgateway.agentserver.translate import Translator
from chatgateway.turn_events import AnswerEnded, ItemDropped, RunEnded, RunEvent, RunFailed, StepFinished, TextDelta
from tests.chatgateway.agentserver.talking import (
    AGENT,
    SECONDS,
    a_conversation,
    a_feed,
    ask,
    client_of,
    follow,
    of_type,
    say,
    seqs,
    streamed,
)
from tests.fakes.agent_script import Answer, Gate, Hang, Step

TEXT = "one two three four five six"


async def whole_turn(agent_server, **feed_arguments):
    """A turn of a new conversation: its feed, frames and run events."""
    async with client_of(agent_server) as client:
        one = await a_conversation(client)
        async with a_feed(client, one, **feed_arguments) as feed:
            await say(client, one)
            frames, events = await follow(feed, Translator(after_seq=-1))
        return feed, frames, events


async def follow_until(is_enough, feed, translator):
    """The run events up to the first time when `is_enough` is true of them."""
    events: list[RunEvent] = []
    async with asyncio.timeout(SECONDS):
        while not is_enough(events):
            events += [event for frame in await anext(feed) for event in translator.feed(frame)]
    return events


async def read_for_ever(client, one):
    async with a_feed(client, one) as feed:
        while True:
            await anext(feed)


def times_of(events):
    times = [event.occurred_at for event in events]
    assert None not in times
    return times


def answer_of(events):
    return [event.text for event in of_type(AnswerEnded, events)][-1]


# --- a connection that holds ----------------------------------------------------------------------------------------------


async def test_a_feed_brings_every_event_and_delta_in_order(agent_server):
    agent_server.script(Answer(TEXT))
    feed, frames, events = await whole_turn(agent_server)

    assert seqs(frames) == list(range(len(agent_server.only_conversation.events)))
    assert streamed(frames) == answer_of(events) == TEXT
    assert (feed.first_state, feed.through_seq, feed.replayed) == ("idle", -1, [])
    assert (feed.last_seq, feed.reconnects) == (seqs(frames)[-1], 0)


async def test_the_first_batch_tells_the_state_at_connecting(agent_server):
    async with client_of(agent_server) as client:
        one = await a_conversation(client)
        async with a_feed(client, one) as feed:
            batch = await anext(feed)

    assert [frame.status for frame in of_type(State, batch)] == ["idle"]


async def test_what_has_arrived_comes_as_one_batch(agent_server):
    async with client_of(agent_server) as client:
        one = await a_conversation(client)
        async with a_feed(client, one) as feed:
            await anext(feed)
            await say(client, one)
            agent_server.wait_until(lambda: agent_server.only_conversation.status == "finished")
            first = await anext(feed)

    assert len(first) > 1


async def test_a_feed_that_comes_late_replays_the_log_and_tells_that_the_run_is_over(agent_server):
    async with client_of(agent_server) as client:
        one = await a_conversation(client)
        await ask(client, one)
        async with a_feed(client, one) as feed:
            translator = Translator(after_seq=-1)
            _, events = await follow(feed, translator)

    assert (feed.first_state, feed.through_seq) == ("finished", len(feed.replayed) - 1)
    assert answer_of(events) == "Hello from the agent."
    assert of_type(RunEnded, events)[0].status == "finished"


async def test_a_feed_that_joins_a_running_turn_brings_the_whole_answer_and_no_fragment(agent_server):
    gate = Gate()
    agent_server.script(Answer(TEXT, gate=gate, hold_after=3))
    async with client_of(agent_server) as client:
        one = await a_conversation(client)
        await say(client, one)
        await asyncio.to_thread(gate.wait_until_reached)
        async with a_feed(client, one) as feed:
            gate.open()
            _, events = await follow(feed, Translator(after_seq=-1))

    assert feed.first_state == "running"
    assert of_type(TextDelta, events) == []
    assert answer_of(events) == TEXT


async def test_a_feed_starts_after_its_cursor(agent_server):
    async with client_of(agent_server) as client:
        one = await a_conversation(client)
        await ask(client, one)
        async with a_feed(client, one, after_seq=2) as feed:
            pass

    assert [event.seq for event in feed.replayed] == list(range(3, feed.through_seq + 1))


async def test_a_feed_without_a_cursor_replays_nothing_and_starts_at_the_end(agent_server):
    async with client_of(agent_server) as client:
        one = await a_conversation(client)
        await ask(client, one)
        async with a_feed(client, one, after_seq=None) as feed:
            end = feed.last_seq
            await say(client, one)
            frames, _ = await follow(feed, Translator(after_seq=end))

    assert (feed.replayed, end) == ([], feed.through_seq)
    assert seqs(frames)[0] == end + 1


async def test_events_keep_their_times_when_they_are_replayed(agent_server):
    before = datetime.now(UTC)
    async with client_of(agent_server) as client:
        one = await a_conversation(client)
        live, _ = await ask(client, one)
        replayed = await client.durable_events(one, after_seq=-1, timeout_seconds=SECONDS)

    times = times_of(of_type(DurableEvent, live))
    shifts = [abs(again - time) for again, time in zip(times_of(replayed), times, strict=True)]
    assert all(before <= time <= datetime.now(UTC) for time in times)
    assert max(shifts) < timedelta(seconds=1)


# --- a connection that breaks -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("frames_until_cut", range(12))
async def test_a_broken_connection_costs_no_event_and_repeats_none(agent_server, frames_until_cut):
    agent_server.script(Step(command="ls", thought="Let me look."), Answer(TEXT))
    agent_server.drop_socket_after(frames_until_cut)
    feed, frames, events = await whole_turn(agent_server)

    assert feed.reconnects == 1
    assert seqs(frames) == list(range(len(agent_server.only_conversation.events)))
    assert len(of_type(Reconnected, frames)) == 1
    assert answer_of(events) == TEXT


async def test_a_connection_that_breaks_again_and_again_gets_through(agent_server):
    agent_server.script(Answer(TEXT, delay_seconds=0.1))
    agent_server.drop_socket_after(0, times=3)
    feed, frames, events = await whole_turn(agent_server)

    assert feed.reconnects == 3
    assert seqs(frames) == list(range(len(agent_server.only_conversation.events)))
    assert answer_of(events) == TEXT


async def test_deltas_that_were_missed_are_made_up_for_by_the_event(agent_server):
    gate = Gate()
    agent_server.script(Answer(TEXT, gate=gate, hold_after=2))
    async with client_of(agent_server) as client:
        one = await a_conversation(client)
        async with a_feed(client, one) as feed:
            await say(client, one)
            translator = Translator(after_seq=-1)
            events = await follow_until(lambda events: len(of_type(TextDelta, events)) == 2, feed, translator)
            agent_server.close_sockets(1012)
            gate.open()
            agent_server.wait_until(lambda: agent_server.only_conversation.status == "finished")
            events += (await follow(feed, translator))[1]

    assert "".join(event.text for event in of_type(TextDelta, events)) == "one two"
    assert answer_of(events) == TEXT
    assert of_type(ItemDropped, events) == []


@pytest.mark.parametrize(("code", "reason"), [(1012, ""), (1011, "oops"), (1013, "slow_consumer"), (1000, "")])
async def test_a_connection_that_the_server_closes_is_made_anew(agent_server, code, reason):
    gate = Gate()
    agent_server.script(Answer(TEXT, gate=gate))
    async with client_of(agent_server) as client:
        one = await a_conversation(client)
        async with a_feed(client, one) as feed:
            await say(client, one)
            await asyncio.to_thread(gate.wait_until_reached)
            agent_server.close_sockets(code, reason)
            gate.open()
            _, events = await follow(feed, Translator(after_seq=-1))

    assert (feed.reconnects, answer_of(events)) == (1, TEXT)


@pytest.mark.parametrize("fault", ["repeat_frames", "swap_deltas", "send_garbage"])
async def test_frames_that_come_twice_in_disorder_or_as_garbage_do_no_harm(agent_server, fault):
    agent_server.script(Step(command="ls", thought="Let me look."), Answer(TEXT))
    getattr(agent_server, fault)()
    _, frames, events = await whole_turn(agent_server)

    shown = "".join(
        event.text for event in of_type(TextDelta, events) if event.item_id == of_type(AnswerEnded, events)[0].item_id
    )
    assert seqs(frames) == list(range(len(agent_server.only_conversation.events)))
    assert answer_of(events) == TEXT
    assert TEXT.startswith(shown)


async def test_garbage_is_counted(agent_server):
    agent_server.send_garbage()
    feed, frames, _ = await whole_turn(agent_server)

    assert feed.skipped.unreadable >= 2 * len(frames)
    assert feed.skipped.unknown >= len(frames)


async def test_a_delta_that_got_lost_silences_its_item(agent_server):
    agent_server.script(Answer(TEXT))
    agent_server.lose_delta(2)
    _, _, events = await whole_turn(agent_server)

    assert "".join(event.text for event in of_type(TextDelta, events)) == "one two"
    assert answer_of(events) == TEXT


async def test_an_event_too_large_for_a_frame_is_fetched_over_rest(agent_server):
    agent_server.max_frame_bytes = 4000
    agent_server.script(Step(command="cat big", output="x" * 5000), Answer(TEXT))
    feed, frames, events = await whole_turn(agent_server)

    assert seqs(frames) == list(range(len(agent_server.only_conversation.events)))
    assert [event.summary for event in of_type(StepFinished, events)] == ["exit code 0"]
    assert (feed.reconnects, answer_of(events)) == (1, TEXT)


async def test_an_event_too_large_for_a_frame_does_not_hide_the_log(agent_server):
    agent_server.script(Step(command="cat big", output="x" * 5000), Answer(TEXT))
    async with client_of(agent_server) as client:
        one = await a_conversation(client)
        await ask(client, one)
        agent_server.max_frame_bytes = 4000
        everything = await client.durable_events(one, after_seq=-1, timeout_seconds=SECONDS)
        rest = await client.durable_events(one, after_seq=4, timeout_seconds=SECONDS)

    assert [event.seq for event in everything] == list(range(len(agent_server.only_conversation.events)))
    assert [event.seq for event in rest] == [event.seq for event in everything][5:]


# --- a server that goes away --------------------------------------------------------------------------------------------------


async def test_a_run_that_a_crash_cut_short_is_a_restart_and_goes_on_when_asked(agent_server):
    hang = Hang()
    agent_server.script(hang, Answer(TEXT))
    async with client_of(agent_server) as client:
        one = await a_conversation(client)
        async with a_feed(client, one) as feed:
            await say(client, one)
            await asyncio.to_thread(hang.gate.wait_until_reached)
            agent_server.crash()
            agent_server.come_back()
            _, events = await follow(feed, Translator(after_seq=-1))
            await client.run(one, timeout_seconds=SECONDS)
            _, again = await follow(feed, Translator(after_seq=feed.last_seq, message_is_mine=True))

    assert [event.code for event in of_type(RunFailed, events)] == ["ServerRestarted"]
    assert [event.status for event in of_type(RunEnded, events + again)] == ["error", "finished"]
    assert answer_of(again) == TEXT


async def test_a_tool_that_a_crash_cut_short_has_failed(agent_server):
    gate = Gate()
    agent_server.script(Step(command="sleep 60", gate=gate))
    async with client_of(agent_server) as client:
        one = await a_conversation(client)
        async with a_feed(client, one) as feed:
            await say(client, one)
            await asyncio.to_thread(gate.wait_until_reached)
            agent_server.crash()
            agent_server.come_back()
            _, events = await follow(feed, Translator(after_seq=-1))

    assert [event.is_error for event in of_type(StepFinished, events)] == [True]


async def test_a_server_that_is_shut_down_in_an_orderly_way_is_a_restart_too(agent_server):
    hang = Hang()
    agent_server.script(hang)
    async with client_of(agent_server) as client:
        one = await a_conversation(client)
        async with a_feed(client, one) as feed:
            await say(client, one)
            await asyncio.to_thread(hang.gate.wait_until_reached)
            agent_server.shut_down()
            agent_server.come_back()
            _, events = await follow(feed, Translator(after_seq=-1))

    assert [event.code for event in of_type(RunFailed, events)] == ["ServerRestarted"]
    assert [event.status for event in of_type(RunEnded, events)] == ["paused"]


async def test_a_server_that_stays_away_loses_the_feed_in_time(agent_server):
    async with client_of(agent_server) as client:
        one = await a_conversation(client)
        async with a_feed(client, one, reconnect_within_seconds=0.2) as feed, asyncio.timeout(SECONDS):
            await anext(feed)
            agent_server.crash()
            with pytest.raises(FeedLost):
                await anext(feed)


async def test_a_server_that_comes_back_mute_loses_the_feed_in_time(agent_server):
    async with client_of(agent_server) as client:
        one = await a_conversation(client)
        feed = a_feed(client, one, connect_timeout_seconds=0.1, reconnect_within_seconds=0.3)
        async with feed, asyncio.timeout(SECONDS):
            await anext(feed)
            agent_server.mute_sockets()
            agent_server.close_sockets(1012)
            with pytest.raises(FeedLost, match="not ready within"):
                await anext(feed)


async def test_a_server_that_falls_silent_is_noticed_by_its_missing_pongs(agent_server):
    async with client_of(agent_server, heartbeat_seconds=0.1) as client:
        one = await a_conversation(client)
        feed = a_feed(client, one, connect_timeout_seconds=0.1, reconnect_within_seconds=0.2)
        async with feed, asyncio.timeout(SECONDS):
            await anext(feed)
            agent_server.hang()
            with pytest.raises(FeedLost):
                await anext(feed)


# --- a conversation that cannot be followed -------------------------------------------------------------------------------------


async def test_a_conversation_that_is_not_there_cannot_be_followed(agent_server):
    async with client_of(agent_server) as client:
        with pytest.raises(ConversationMissing):
            async with a_feed(client, uuid.uuid4()):
                pass


async def test_a_conversation_that_is_gone_after_a_break_cannot_be_followed(agent_server):
    async with client_of(agent_server) as client:
        one = await a_conversation(client)
        async with a_feed(client, one) as feed:
            await anext(feed)
            agent_server.forget_conversations()
            agent_server.close_sockets(1012)
            with pytest.raises(ConversationMissing):
                await anext(feed)


async def test_a_conversation_that_was_begun_anew_under_its_id_is_not_the_one_the_cursor_belongs_to(agent_server):
    async with client_of(agent_server) as client:
        one = await a_conversation(client)
        frames, _ = await ask(client, one)
        await client.delete(one, timeout_seconds=SECONDS)
        await client.create_conversation(one, AGENT, timeout_seconds=SECONDS)
        with pytest.raises(ConversationMissing, match="begun anew"):
            async with a_feed(client, one, after_seq=seqs(frames)[-1]):
                pass


async def test_a_wrong_key_cannot_follow(agent_server):
    async with client_of(agent_server) as client:
        one = await a_conversation(client)
    async with client_of(agent_server, session_api_key="wrong") as client:
        with pytest.raises(Unauthorized):
            async with a_feed(client, one):
                pass


async def test_a_key_that_was_changed_meanwhile_cannot_follow(agent_server):
    async with client_of(agent_server) as client:
        one = await a_conversation(client)
        async with a_feed(client, one) as feed:
            await anext(feed)
            agent_server.change_key()
            agent_server.close_sockets(1012)
            with pytest.raises(Unauthorized):
                await anext(feed)


async def test_the_key_is_neither_in_the_address_nor_in_a_header(agent_server):
    agent_server.mute_sockets()
    async with client_of(agent_server) as client:
        one = await a_conversation(client)
        with pytest.raises(Unreachable):
            async with a_feed(client, one, connect_timeout_seconds=0.1):
                pass

    (asked,) = agent_server.handshakes
    assert agent_server.session_api_key not in f"{asked}"


@pytest.mark.parametrize("fault", ["crash", "hang", "mute_sockets"])
async def test_a_server_that_cannot_be_reached_is_given_up_in_time(agent_server, fault):
    async with client_of(agent_server) as client:
        one = await a_conversation(client)
        getattr(agent_server, fault)()
        with pytest.raises(Unreachable):
            async with asyncio.timeout(SECONDS), a_feed(client, one, connect_timeout_seconds=0.1):
                pass


@pytest.mark.parametrize(
    ("status", "error"), [(401, Unauthorized), (403, Rejected), (404, Rejected), (503, Unreachable)]
)
async def test_a_handshake_that_is_refused_says_why(agent_server, status, error):
    async with client_of(agent_server) as client:
        one = await a_conversation(client)
        agent_server.refuse_sockets(status)
        with pytest.raises(error) as refused:
            async with a_feed(client, one):
                pass

    assert agent_server.session_api_key not in repr(refused.value)


async def test_deltas_that_overtake_the_replay_are_handed_over_after_it(agent_server):
    agent_server.overtake_replay()
    async with client_of(agent_server) as client:
        one = await a_conversation(client)
        await ask(client, one)
        async with a_feed(client, one) as feed:
            batch = await anext(feed)

    assert seqs([*feed.replayed]) == list(range(feed.through_seq + 1))
    assert [type(frame) for frame in batch] == [State, Delta]


async def test_a_server_that_hangs_up_amid_the_replay_is_unreachable_at_first(agent_server):
    async with client_of(agent_server) as client:
        one = await a_conversation(client)
        agent_server.max_frame_bytes = 10  # not even the first frame fits
        with pytest.raises(Unreachable, match="frame_too_large"):
            async with a_feed(client, one):
                pass


async def test_leaving_a_feed_closes_its_connection(agent_server):
    async with client_of(agent_server) as client:
        one = await a_conversation(client)
        async with a_feed(client, one):
            connected = len(agent_server.socket_faults.open)
        agent_server.wait_until(lambda: not agent_server.socket_faults.open)

    assert connected == 1


async def test_a_cancelled_reader_leaves_no_connection_behind(agent_server):
    async with client_of(agent_server) as client:
        one = await a_conversation(client)
        reader = asyncio.create_task(read_for_ever(client, one))
        await asyncio.to_thread(agent_server.wait_until, lambda: agent_server.socket_faults.open)
        reader.cancel()
        await asyncio.gather(reader, return_exceptions=True)
        await asyncio.to_thread(agent_server.wait_until, lambda: not agent_server.socket_faults.open)

    assert reader.cancelled()


async def test_a_feed_that_is_kept_serves_several_turns(agent_server):
    agent_server.script(Answer("First."))
    agent_server.script(Answer("Second."))
    async with client_of(agent_server) as client:
        one = await a_conversation(client)
        async with a_feed(client, one) as feed:
            await say(client, one)
            _, first = await follow(feed, Translator(after_seq=-1))
            await say(client, one)
            frames, second = await follow(feed, Translator(after_seq=feed.last_seq))

    assert [answer_of(first), answer_of(second)] == ["First.", "Second."]
    assert of_type(Delta, frames)[0].order == 0
