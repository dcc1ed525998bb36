"""Prompts that need no tool: courtesies, questions about the demo, and what it is asked to remember."""

from __future__ import annotations

import re

from gateway_project.demo_llm import memory
from gateway_project.demo_llm.phrases import Intent, Wish, phrases, subject

# --- readers ---------------------------------------------------------------------------------------------------------


def _fact(intent: Intent, match: re.Match[str]) -> Wish | None:
    fact = memory.to_remember(match[0])
    return Wish(intent=intent, subject=fact) if fact else None


def _thing(intent: Intent, match: re.Match[str]) -> Wish:
    return Wish(intent=intent, subject=match["subject"].strip(), is_own=match["whose"].lower() == "my")


def _own_name(intent: Intent, _match: re.Match[str]) -> Wish:
    return Wish(intent=intent, subject="name", is_own=True)


# --- the tables ------------------------------------------------------------------------------------------------------

# A chat client's request for a title, tags or the like, with the conversation quoted in it. Open WebUI's begin with
# "### Task:"; agent-servers ask "Generate a title (maximum 50 characters) for a conversation …".
HOUSEKEEPING = re.compile(
    r"\s*(?:###\s*Task:|(?:please\s+)?(?:generate|create|write|provide|suggest|give)\b[^\n]{0,60}"
    r"\b(?:title|follow-?ups?|tags|search quer(?:y|ies))\b[^\n]{0,80}\b(?:conversation|chat|dialogue|message))",
    re.IGNORECASE,
)

_SAID = r"(?:say|said|ask|asked|tell|told|write|wrote|written)(?: (?:to )?you)?"
_MESSAGE = r"(?:message|question|prompt|request|words?)"
_HOW_ARE_YOU = r"(?:how are you(?: doing)?(?: today)?|how(?: is|'s) it going|nice to meet you)"
# "Say something nice" does not ask for these words.
_LITERAL = r"(?!(?:something|anything|an?|more|what|why|how|your|my)\b)(?P<subject>\S.{0,200})"
_GREETINGS = (
    "hi|hello|hey|hiya|howdy|greetings|good (?:morning|afternoon|evening|day)"
    "|hola|buenos d[ií]as|buenas tardes|bonjour|salut|hallo|guten (?:tag|morgen|abend)|moin|ciao|buongiorno"
    "|ol[áa]|hej|hei|merhaba|cześć|привет|здравствуйте|नमस्ते|你好|您好|こんにちは|안녕하세요|مرحبا|שלום|สวัสดี"
)

TALK = (
    phrases(
        Intent.TELL_NAME,
        r"(?:my name is|my name's|i am called|i'm called) (?P<subject>[^\n?]{1,80}?)",
        r"call me (?P<subject>(?-i:[^\Wa-z])[^\n?]{0,80}?)",
        read=subject,
    ),
    phrases(
        Intent.RECALL_FACTS,
        r"(?:what|which)(?: \w+){0,3} (?:did i (?:ask|tell) you to|should you|do you|were you (?:told|asked) to)"
        " (?:remember|keep in mind)",
    ),
    phrases(
        Intent.RECALL_FIRST,
        rf"(?:what was|repeat|tell me) my (?:very )?first {_MESSAGE}.{{0,60}}",
        rf"what (?:did|have) i (?:first )?{_SAID} (?:at )?first",
    ),
    phrases(
        Intent.RECALL_LAST,
        rf"(?:what was|repeat|tell me) my (?:last|previous|latest) {_MESSAGE}.{{0,60}}",
        rf"what did i (?:just|last) {_SAID}.{{0,40}}",
        rf"what did i {_SAID} (?:last|just now)",
    ),
    phrases(
        Intent.RECALL_ALL,
        r"(?:do you (?:remember|know|recall) |tell me |repeat )?"
        rf"what(?: all)?(?: did| have)? i(?: have| had)? {_SAID}\b.{{0,60}}",
        "what (?:were|are|did) we (?:talk|speak|chat)(?:ing)? about.{0,40}",
        "summari[sz]e (?:our|this|the) (?:conversation|chat)(?: so far)?",
        "what do you remember(?: about me| so far)?",
        "do you remember (?:our|this|the) (?:conversation|chat)",
    ),
    phrases(Intent.REMEMBER, r"(?P<subject>my favou?rite .{1,80}? is .{1,80}?)", read=subject),
    phrases(Intent.REMEMBER, r"[^\n]*\bremember\b[^\n]*", read=_fact),
    phrases(
        Intent.RECALL_VALUE,
        r"(?:do you (?:still )?(?:know|remember|recall)|tell me|what(?:'s| is| was| are)|who(?:'s| is))"
        r"(?: again)?(?: what)? (?P<whose>my|the) (?P<subject>\w[\w'\s-]{0,40}?)(?: is| was)?(?:,? again)?"
        r"(?: (?:that )?i (?:told|gave|said|asked|mentioned)\b.{0,40})?",
        read=_thing,
    ),
    phrases(Intent.RECALL_VALUE, "who am i", "what am i called", read=_own_name),
    phrases(
        Intent.GREET,
        rf"(?:{_GREETINGS})(?: (?:there|again|demo|everyone|all|you|friend|world|agent|openhands))?"
        rf"[\s,.!?~👋🙂。！]{{0,9}}(?:{_HOW_ARE_YOU})?",
        _HOW_ARE_YOU,
    ),
    phrases(
        Intent.EXPLAIN,
        r"(?:what|how) (?:else )?can (?:you|i)(?: \w+){1,4}",
        "help(?: me)?",
        "(?:who|what) are you",
        "are you (?:an? )?(?:real|demo|ai|bot|human|chatgpt|gpt).{0,40}",
        "(?:what|which) (?:ai|llm|model|language model)(?: model)? (?:are you|is this|do you use)",
        "(?:what|which) tools (?:do|can) you (?:have|use)",
        "introduce yourself",
        "tell me about yourself",
        "qu[eé] puedes hacer",
        "que peux-tu faire",
        "was kannst du(?: tun)?",
    ),
    phrases(
        Intent.SAY,
        rf"(?:say|repeat(?: after me)?)(?: exactly)?:? {_LITERAL}",
        rf"(?:reply|respond|answer)(?: only)? with(?: exactly| only| just)?(?: the (?:words?|text))?:? {_LITERAL}",
        read=subject,
    ),
    phrases(
        Intent.THANK, r"(?:many |great,? |ok,? )?(?:thanks|thank you|thx|merci|danke|gracias)(?: \w+){0,4}[\s.!🙏]{0,9}"
    ),
    phrases(Intent.LEAVE, r"(?:good ?bye|bye(?: bye)?|see you(?: later| soon)?|good night|tsch[uü]ss)[\s.!👋]{0,9}"),
)
