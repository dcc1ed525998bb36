"""What a key or a tenant may use at most. Columns of both, and their values as a process remembers them."""

from __future__ import annotations

from dataclasses import dataclass, fields
from decimal import Decimal

from django.core.validators import MinValueValidator
from django.db import models


@dataclass(frozen=True, slots=True, kw_only=True)
class Ceilings:
    """None: no ceiling. Money in USD; days and months are those of UTC."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    open_turns: int | None = None
    usd_per_turn: Decimal | None = None
    usd_per_day: Decimal | None = None
    usd_per_month: Decimal | None = None

    @property
    def has_money(self) -> bool:
        return any(limit is not None for limit in (self.usd_per_turn, self.usd_per_day, self.usd_per_month))


class CeilingColumns(models.Model):
    """The columns behind `Ceilings`, under the names `max_…`."""

    max_requests_per_minute = models.PositiveIntegerField(
        "requests per minute",
        null=True,
        blank=True,
        validators=[MinValueValidator(1)],
        help_text="Turns begun in any 60 seconds. Empty: no ceiling.",
    )
    max_tokens_per_minute = models.PositiveBigIntegerField(
        "tokens per minute",
        null=True,
        blank=True,
        validators=[MinValueValidator(1)],
        help_text="Tokens of turns that ended in the last 60 seconds; while they are used up, no turn begins. "
        "Empty: no ceiling.",
    )
    max_open_turns = models.PositiveIntegerField(
        "turns at once",
        null=True,
        blank=True,
        validators=[MinValueValidator(1)],
        help_text="Turns that are running or queued at the same time. Empty: no ceiling.",
    )
    max_usd_per_turn = models.DecimalField(
        "USD per turn",
        max_digits=12,
        decimal_places=4,
        null=True,
        blank=True,
        validators=[MinValueValidator(Decimal("0.0001"))],
        help_text="An agent that has cost this much is stopped, after the LLM call that reached it. What it wrote is "
        "delivered, cut. Set aside for each turn while it is open. Empty: no ceiling.",
    )
    max_usd_per_day = models.DecimalField(
        "USD per day",
        max_digits=12,
        decimal_places=4,
        null=True,
        blank=True,
        validators=[MinValueValidator(Decimal("0.0001"))],
        help_text="From midnight to midnight, UTC. Profiles whose price is unknown cannot be used under a ceiling in "
        "USD. Empty: no ceiling.",
    )
    max_usd_per_month = models.DecimalField(
        "USD per month",
        max_digits=12,
        decimal_places=4,
        null=True,
        blank=True,
        validators=[MinValueValidator(Decimal("0.0001"))],
        help_text="Calendar months, UTC. Empty: no ceiling.",
    )

    class Meta:
        abstract = True

    def ceilings(self) -> Ceilings | None:
        """Return what is set; None when nothing is, so that most requests have nothing to check."""
        values = {field.name: getattr(self, f"max_{field.name}") for field in fields(Ceilings)}
        return Ceilings(**values) if any(value is not None for value in values.values()) else None


COLUMNS = tuple(f"max_{field.name}" for field in fields(Ceilings))
