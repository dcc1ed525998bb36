from decimal import Decimal

import pytest

from profiles.models import Profile
from profiles.pricing import cost_usd

PRICES = {"input": "3", "output": "15", "cached": "0.3", "cache_write": "3.75"}


@pytest.mark.parametrize(
    ("prices", "tokens", "expected"),
    [
        pytest.param(PRICES, {"input_tokens": 1_000_000, "output_tokens": 0}, "3.00000000", id="input"),
        pytest.param(PRICES, {"input_tokens": 0, "output_tokens": 2_000_000}, "30.00000000", id="output"),
        pytest.param(
            PRICES, {"input_tokens": 1000, "output_tokens": 10, "cached_tokens": 900}, "0.00072000", id="cached"
        ),
        pytest.param(
            PRICES,
            {"input_tokens": 1000, "output_tokens": 0, "cached_tokens": 300, "cache_write_tokens": 600},
            "0.00264000",
            id="cached and written",
        ),
        pytest.param(
            {"input": "3", "output": "15"},
            {"input_tokens": 1000, "output_tokens": 0, "cached_tokens": 500, "cache_write_tokens": 500},
            "0.00300000",
            id="no prices for the cache",
        ),
        pytest.param(PRICES, {"input_tokens": 10, "output_tokens": 0, "cached_tokens": 99}, "0.00000300", id="absurd"),
        pytest.param(PRICES, {"input_tokens": 0, "output_tokens": 0}, "0E-8", id="nothing"),
        pytest.param({"input": "0", "output": "0"}, {"input_tokens": 5, "output_tokens": 5}, "0E-8", id="free"),
        pytest.param(
            {"input": "0.075", "output": "0.3"}, {"input_tokens": 1, "output_tokens": 1}, "3.8E-7", id="round"
        ),
    ],
)
def test_a_cost_is_exact_to_eight_decimals(prices, tokens, expected):
    cost = cost_usd(prices, **tokens)
    assert cost == Decimal(expected)
    assert cost.as_tuple().exponent == -8


def test_an_unknown_price_is_not_zero():
    assert cost_usd({}, input_tokens=1000, output_tokens=1000) is None


CATALOGUE = {"input_price": "3", "output_price": "15", "cached_input_price": "0.3", "cache_write_input_price": "3.75"}


@pytest.mark.parametrize(
    ("own", "catalogue", "expected"),
    [
        pytest.param({}, {}, {}, id="nobody knows"),
        pytest.param({}, {"is_known": False, "provider": "openai"}, {}, id="LiteLLM does not know the model"),
        pytest.param({}, CATALOGUE, PRICES, id="the catalogue's"),
        pytest.param(
            {"input_price": "1", "output_price": "2"},
            CATALOGUE,
            {"input": "1", "output": "2", "cached": "1"},
            id="one's own, without the catalogue's discount",
        ),
        pytest.param(
            {"input_price": "1", "output_price": "2", "cached_input_price": "0.5"},
            {},
            {"input": "1", "output": "2", "cached": "0.5"},
            id="one's own, complete",
        ),
        pytest.param({"input_price": "1"}, {}, {}, id="half a price is none"),
        pytest.param(
            {"output_price": "0"}, CATALOGUE, PRICES | {"output": "0"}, id="a free output beside the catalogue's input"
        ),
        pytest.param({"cached_input_price": "0"}, CATALOGUE, PRICES | {"cached": "0"}, id="a free cache"),
    ],
)
def test_prices_are_ones_own_or_else_the_catalogues(own, catalogue, expected):
    profile = Profile(catalogue=catalogue, **{name: Decimal(price) for name, price in own.items()})
    assert profile.prices() == expected
