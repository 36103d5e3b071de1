"""`python -m broker.command` is `pushbroker`."""

from broker.command import main

main()
