"""The traffic: agent-servers, conversations, turns and what happened in them.

History rows outlive what they point to: their foreign keys become null, and the names they were written with stay.
"""

from chatgateway.models.agent_servers import AgentServer
from chatgateway.models.background import TaskRun, Watermark
from chatgateway.models.books import Alert, DailyUsage, LedgerEntry
from chatgateway.models.conversations import ClientChat, Conversation, Image, Message
from chatgateway.models.figures import HourlyTimes, HourlyTraffic
from chatgateway.models.file_changes import FileChanges
from chatgateway.models.governance import Erasure, TranscriptReading
from chatgateway.models.leftovers import Leftover
from chatgateway.models.texts import TurnText
from chatgateway.models.turns import RESPONSES, Attempt, Event, Frame, Turn

__all__ = [
    "RESPONSES",
    "AgentServer",
    "Alert",
    "Attempt",
    "ClientChat",
    "Conversation",
    "DailyUsage",
    "Erasure",
    "Event",
    "FileChanges",
    "Frame",
    "HourlyTimes",
    "HourlyTraffic",
    "Image",
    "LedgerEntry",
    "Leftover",
    "Message",
    "TaskRun",
    "TranscriptReading",
    "Turn",
    "TurnText",
    "Watermark",
]
