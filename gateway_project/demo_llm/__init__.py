"""The LLM that answers when nobody has given a provider key: offline, deterministic, and open about being a demo.

It stands where a real model would: behind a real agent, over the OpenAI protocol. What it says about the agent's
files and commands therefore comes from real tool calls; only the understanding is missing. `replies.decide` is the
whole of its mind.

It imports nothing of Django, so that it starts in a fraction of a second and holds no secret but its own key.
"""
