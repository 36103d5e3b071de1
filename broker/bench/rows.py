"""All rows, in the order of their run: those that share brokers first."""

from typing import Final

from broker.bench import durable, flows

ROWS: Final = (*flows.ROWS, *durable.ROWS)
