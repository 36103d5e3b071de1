"""What happened, as plain ints on a slotted object: counting costs 20 ns, and who wants the figures reads them."""


class Counters:
    """Totals since the start of the process. Every name is shown by `pushbroker status`."""

    __slots__ = (
        "bytes_received",
        "bytes_sent",
        "connections_accepted",
        "connections_closed",
        "connections_refused",
        "content_refused",
        "facts_refused",
        "fleet_refused",
        "handshakes_failed",
        "handshakes_paced",
        "inbox_events_dropped",
        "inbox_full",
        "inbox_refused",
        "inbox_requests_refused",
        "journal_commits",
        "journal_failures",
        "journal_rows",
        "keep_alive_timeouts",
        "log_lines_held_back",
        "log_messages_appended",
        "log_messages_delivered",
        "log_messages_dropped",
        "log_messages_expired",
        "messages_delivered",
        "messages_dropped_expired",
        "messages_dropped_queue_full",
        "messages_dropped_session_end",
        "messages_dropped_slow",
        "messages_dropped_too_large",
        "messages_received",
        "messages_sent",
        "overloads",
        "packets_unfinished",
        "plugin_failures",
        "plugin_questions",
        "plugin_timeouts",
        "preferences_refused",
        "proofs_ended",
        "protocol_errors",
        "proxy_refused",
        "publishes_refused",
        "questions_answered",
        "questions_received",
        "questions_refused",
        "readings_paused",
        "receipts_lost",
        "retained_refused",
        "server_answers_late",
        "server_answers_refused",
        "servers_absent",
        "servers_silent",
        "sessions_expired",
        "sessions_overrun",
        "sessions_refused",
        "sessions_taken_over",
        "subscriptions_asked",
        "subscriptions_refused",
        "unexpected_errors",
        "websocket_refused",
        "wills_published",
    )

    def __init__(self) -> None:
        for name in self.__slots__:
            setattr(self, name, 0)

    bytes_received: int
    bytes_sent: int
    connections_accepted: int
    connections_closed: int
    connections_refused: int
    content_refused: int  # requests of brands' servers: they could not be done, or not all of their items be taken
    facts_refused: int  # publishes of what the bridge is to write down, while it was behind
    fleet_refused: int  # results and reports of devices that were not asked for, or could not be understood
    handshakes_failed: int
    handshakes_paced: int  # times that accepting waited for them
    inbox_events_dropped: int  # of what agents and devices were to be told
    inbox_full: int  # hand-overs to a person while as many waited as may
    inbox_refused: int  # what devices said of their conversation: it could not be understood, or came too fast
    inbox_requests_refused: int  # of agents' own tools
    journal_commits: int
    journal_failures: int
    journal_rows: int  # messages written
    keep_alive_timeouts: int
    log_lines_held_back: int
    # appended = delivered + expired + dropped + those still in the log
    log_messages_appended: int
    log_messages_delivered: int
    log_messages_dropped: int
    log_messages_expired: int
    messages_delivered: int
    messages_dropped_expired: int
    messages_dropped_queue_full: int
    messages_dropped_session_end: int
    messages_dropped_slow: int
    messages_dropped_too_large: int
    messages_received: int
    messages_sent: int
    overloads: int
    plugin_failures: int  # raised instead of answering
    plugin_questions: int
    plugin_timeouts: int
    preferences_refused: int  # of what devices said: it could not be understood
    packets_unfinished: int
    proofs_ended: int
    protocol_errors: int
    proxy_refused: int
    publishes_refused: int
    questions_answered: int
    questions_received: int
    questions_refused: int  # by their form, by what may be asked at a time, by what could not be done
    readings_paused: int
    receipts_lost: int  # of rich sends: the queue of a brand's server was full
    retained_refused: int
    server_answers_late: int  # of brands' servers: after the time limit, or to no question of theirs
    server_answers_refused: int  # by their form
    servers_absent: int  # questions for which no server was there, or too many were asked
    servers_silent: int  # questions that a server did not answer in time
    sessions_expired: int
    sessions_overrun: int
    sessions_refused: int
    sessions_taken_over: int
    subscriptions_asked: int  # topic filters in SUBSCRIBE and UNSUBSCRIBE
    subscriptions_refused: int
    unexpected_errors: int
    websocket_refused: int
    wills_published: int

    def as_dict(self) -> dict[str, int]:
        """All totals by name."""
        return {name: getattr(self, name) for name in self.__slots__}
