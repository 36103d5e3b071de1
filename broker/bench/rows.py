"""All rows, in the order of their run: those that share brokers first."""

from typing import Final

from broker.bench import durable, flows, scale, storm

ROWS: Final = (*flows.ROWS, *durable.ROWS, *storm.ROWS, *scale.ROWS)
