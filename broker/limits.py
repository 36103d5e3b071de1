"""Every bound in one place, with its arithmetic. A peer can make nothing grow that is not limited here.

Units stand last in the names. What an operator may want to change is a setting in `config.py` whose default is here.
"""

from typing import Final

# -- one packet ------------------------------------------------------------------------------------------------------
# A notification with an inline image fits 256 KiB; 1 MiB leaves room, and 20,000 devices announcing it at once cannot
# make us allocate it: the buffer grows only by what has arrived.
PACKET_BYTES_MAX: Final = 1 << 20
TOPIC_BYTES_MAX: Final = 1024
TOPIC_LEVELS_MAX: Final = 32
# Before a client is known it may send no more than a CONNECT with a will and an enrolment request need.
CONNECT_BYTES_MAX: Final = 64 << 10
USER_PROPERTIES_MAX: Final = 64
CLIENT_ID_BYTES_MAX: Final = 256

# -- one connection --------------------------------------------------------------------------------------------------
CONNECT_TIMEOUT_S: Final = 20  # TCP accept to CONNECT; PROXY header, TLS handshake and HTTP request included
# New connections that wait for the first step of their handshake: 0.1 s of work. More are not accepted meanwhile: the
# kernel keeps them, and nobody's handshake is done for a client that has given up.
HANDSHAKES_WAITING_MAX: Final = 256
# HTTP, before a WebSocket is open: a browser with many cookies sends some 8 KiB, and servers everywhere take about 16.
REQUEST_BYTES_MAX: Final = 16 << 10
# A WebSocket frame, or a message in fragments, may hold so much more than the largest packet: others, or a CONNECT
# where packets are bounded to less. What is larger for us to send goes in frames of 1 MiB, which clients take.
FRAME_BYTES_MORE: Final = 64 << 10
FRAME_BYTES_MAX: Final = 1 << 20
PROXY_BYTES_MAX: Final = (
    4096  # after the fixed part of a PROXY header: addresses take 216, certificate names some 1,000
)
KEEP_ALIVE_MAX_S: Final = 3600  # longer ones, and none at all, are answered with this (Server Keep Alive)
RECEIVE_MAXIMUM: Final = 1024  # what we take from one client unacknowledged
TOPIC_ALIASES_MAX: Final = 32  # 32 x 1 KiB of topic at worst for each connection
OUT_BYTES_MAX: Final = 4 << 20  # waiting in our memory for one slow reader; beyond: QoS 0 dropped, QoS 1 and 2 queued
# 3.1.1 clients may ask for no keep-alive at all. After an hour of silence the kernel asks whether they are there, and
# again each minute; after five it closes. It costs a timer, which every TCP connection has.
PROBE_INTERVAL_S: Final = 60
PROBES_MAX: Final = 5
# What the kernel keeps for one peer, either way; it counts twice that. Left alone it would grow to 4 and 6 MiB: 4 GiB
# of a thousand that do not read, and 30 MiB of work left behind by five who have gone.
KERNEL_BUFFER_BYTES: Final = 128 << 10
LATE_BYTES_MORE: Final = 32  # for the place in a list of what waits: the bytes of a message are shared, that is not

# -- how fast --------------------------------------------------------------------------------------------------------
# Of a second, with what 10 seconds bring in one go. A kiosk sends a state now and then, and after a day without a line
# a few hundred at once.
BURST_S: Final = 10.0
DEVICE_CONNECTS_PER_S: Final = 2
DEVICE_MESSAGES_PER_S: Final = 100
DEVICE_BYTES_PER_S: Final = 256 << 10
# A brand's servers send newsletters: 0 is no bound but that of the machine.
SERVER_CONNECTS_PER_S: Final = 0
SERVER_MESSAGES_PER_S: Final = 0
SERVER_BYTES_PER_S: Final = 0
# Of one address, or one /64 of IPv6. A thousand devices behind one line come back at once; one address that does only
# this costs 100 handshakes of 0.4 ms: 4 % of a core.
ADDRESS_CONNECTS_PER_S: Final = 100
# Wrong passwords, tokens and codes from one address: 100 guesses at once, then 10 a second. Certificates go on. Right
# ones count only while they are looked up, so 100 of them may come at the same moment.
WRONG_SECRETS_PER_S: Final = 10
# Identities and addresses whose buckets are not full: 300 bytes each, 30 MB. Beyond, the oldest are forgotten.
METERS_MAX: Final = 100_000
# A loop that is so late time after time has too much to do: who is connected comes first, who is not is told to come
# back. Twice in a row, since one large broadcast may take as long.
OVERLOAD_LAG_MS: Final = 500
OVERLOAD_TICKS: Final = 2

# -- one session -----------------------------------------------------------------------------------------------------
SUBSCRIPTIONS_MAX: Final = 1000
# A device has three places and the topics that its user follows. With 1000 deep wildcards in each of 8 sessions one
# device made each new topic cost 26 ms to route.
SUBSCRIPTIONS_OF_DEVICE_MAX: Final = 250
IN_FLIGHT_MAX: Final = 1024
QUEUE_MESSAGES_MAX: Final = 1000
QUEUE_BYTES_MAX: Final = 1 << 20
# A session that ends with its connection promises nothing beyond it; while it is slow it may queue OUT_BYTES_MAX, in
# any number: a small message counts as 400 bytes and more, so 10,000 of them. A client that does not read costs
# 3 x 4 MiB in large messages: in flight, written out and not taken, queued.
# In flight, messages of LARGE_BYTES or less are bounded by number (IN_FLIGHT_MAX x 16 KiB = 16 MiB at worst). A larger
# one goes only while what is in flight, were all of it as large, is less than OUT_BYTES_MAX: 4 MiB of equal ones,
# 20 MiB where each is a little smaller than the one before (the sum of 4 MiB / n).
LARGE_BYTES: Final = 16 << 10
SESSION_EXPIRY_MAX_S: Final = 90 * 86400  # "never" (0xFFFFFFFF) is answered with this

# -- a turn ----------------------------------------------------------------------------------------------------------
# Bytes alone do not bound what a client makes us do: 64 KiB are 13,000 messages to 1,000 receivers each, or 5,000 looks
# at 1,000 subscriptions, 5 s in which nobody else was served. So work is counted, in units of about half a microsecond
# (a delivery, a level of a tree, a subscription looked at). After 10 ms of it whoever works on rests until the others
# have been served.
TURN_WORK_MAX: Final = 20_000
SHARE_WORK_MAX: Final = 2_000  # of that, for one of those who have waited for a turn
# So much, a quarter of a millisecond, everybody may, whatever the others have done: who asks for little does not wait
# behind a hundred who ask for much.
OWN_WORK_MIN: Final = 500
PACKET_WORK: Final = 10  # a packet that is not a plain PUBLISH or PUBACK
WORK_BYTES_SHIFT: Final = 12  # a delivery costs one more for each 4 KiB, which the kernel copies
DELIVERY_WORK: Final = 4  # to a receiver, where a message does not go the plain way
CONNECT_WORK: Final = 200
FILTER_WORK: Final = 10  # to subscribe to one, and to unsubscribe
RETAINED_WORK: Final = 10  # to send one retained message
DEADLINE_WORK: Final = 30  # to ask whether something is due, and to close a connection that is
END_WORK: Final = 40  # to end a session with a few subscriptions
FLUSH_WORK: Final = 50  # to write to a connection: 25 us with TLS, where there are thousands, and 10 without
FLUSHED_MAX: Final = TURN_WORK_MAX // FLUSH_WORK  # connections at the end of a round; the others in the next turns
HAND_ON_WORK: Final = 20  # to give what a member of a group leaves behind to another
# Read in a round from all who are ready, and at least 1 KiB from each: 75,000 of the smallest messages. Of
# WebSockets an eighth of that: 11,000 of the smallest frames.
ROUND_BYTES: Final = 512 << 10
RESUMED_MAX: Final = 8  # connections that are read again in a round; each has up to 64 KiB that was read before

# -- the whole broker ------------------------------------------------------------------------------------------------
CONNECTIONS_MAX: Final = 100_000
# Clients whose identity is being looked up: 20,000 that come back at once are let in within seconds; who would wait for
# longer is told to come again.
ADMISSIONS_MAX: Final = 20_000
SESSIONS_MAX: Final = 1_000_000
# Anonymous clients, whom nothing tells apart, leave so much of SESSIONS_MAX to those who are somebody.
SESSIONS_OF_ANONYMOUS: Final = 0.5
# Of one identity, by client id. A device runs a program or two; each session can cost 1 MiB of queue and 10 MB of deep
# filters. A brand's servers may share one name. Those of open mode, on a trusted network, have only the bound of all.
SESSIONS_OF_DEVICE_MAX: Final = 8
SESSIONS_OF_IDENTITY_MAX: Final = 1000
RETAINED_MESSAGES_MAX: Final = 100_000
RETAINED_BYTES_MAX: Final = 256 << 20
# Of one brand: a quarter, so that no brand's servers or devices use up what the others need. A state of each of 20,000
# devices (acme/device/kiosk-12345/up/state with 100 bytes) takes 1.5 KB with its levels in the tree, 30 MB of all.
RETAINED_MESSAGES_OF_BRAND_MAX: Final = RETAINED_MESSAGES_MAX // 4
RETAINED_BYTES_OF_BRAND_MAX: Final = RETAINED_BYTES_MAX // 4
RETAINED_OF_DEVICE_MAX: Final = 100  # on a device's own up/; a kiosk retains a state or two
# Packets that have begun and are not whole, all together: 128 of the largest. Beyond, who has been at it for longest is
# disconnected: who sends all but the last byte of a packet, not who is sending one just now. Up to 4 KiB do not
# count: they are no more than what a connection costs anyway.
UNFINISHED_BYTES_MAX: Final = 128 << 20
UNFINISHED_BYTES_MIN: Final = 4096
ROUTES_CACHED_MAX: Final = 50_000
# A level of a topic that is kept costs a dict and its name. A topic of 32 levels would cost 9 KB in a cache that is
# bounded by topics alone (50,000 of them: 400 MB); 200,000 nodes are 60 MB.
TREE_NODE_BYTES: Final = 300
ROUTE_NODES_MAX: Final = 200_000
# Of one event, such as a refused publish. What a peer can cause fills no disk: ten kinds are 20 lines in a second, or
# 300 MB in a day of uninterrupted attack.
LOG_LINES_MAX: Final = 20
LOG_WINDOW_S: Final = 10.0

# -- amqtt's plugins --------------------------------------------------------------------------------------------------
# What they have said of one connection: 1,024 names of 1 KiB at worst are 1 MiB, and a SUBSCRIBE has 1,000 filters.
# Above it all of that is asked again, and after a minute anyway: so long a right that was taken away may be used.
DECISIONS_MAX: Final = 1024
DECISION_S: Final = 60
# A client that they let in comes back after a day to be looked at again, and what it is subscribed to with it.
ADMITTED_BY_PLUGIN_S: Final = 86400
# Asked at a time; a database that answers in 5 ms thus answers 12,000 times a second. Each connection has one question
# at most, so CONNECTIONS_MAX wait at worst; who has no answer in time is refused, whether it waited here or there.
PLUGIN_QUESTIONS_MAX: Final = 64
# Of those of one user name about topics: who publishes to ever new ones on many connections waits for itself.
PLUGIN_QUESTIONS_OF_ONE_MAX: Final = 16
PLUGIN_ANSWER_S: Final = 5
PLUGIN_START_S: Final = 30  # to load and open what they need; as long to close
GUEST_NAME_BYTES_MAX: Final = 256

# -- the log of messages ---------------------------------------------------------------------------------------------
# On disk. A message takes its own bytes and 60; its place in memory (number, size, expiry) takes 12 to 20, so a log
# full of 64-byte messages (200 bytes each) holds 5 million of them and 100 MB of memory.
LOG_BYTES_MAX: Final = 1 << 30
# So long a message whose receivers are online waits for their acknowledgements before it is written. A kiosk on a
# shop's line answers within 10 to 40 ms; the publisher of one that does not answer waits so much longer.
COMMIT_WINDOW_MS: Final = 50
BODIES_BYTES_MAX: Final = 16 << 20  # of messages in the log that are kept in memory too, the latest
FETCH_BYTES_MAX: Final = 1 << 20  # read from the log at once
FETCH_MESSAGES_MAX: Final = 256  # of one session
# Up to so many absent sessions are counted one by one when a message waits for them. A topic with more is bounded by
# what waits on the topic itself, so that a broadcast to 10,000 costs what one to 10 costs.
NARROW_MAX: Final = 32
# Facts that the bridge has not applied, in the journal and in memory: 100,000 receipts of 150 bytes. Beyond, whoever
# would cause more is refused; the log's own bound holds for what is sent.
FACTS_BYTES_MAX: Final = 16 << 20
UNWRITTEN_BYTES_MAX: Final = 64 << 20  # accepted and on the way to the disk; beyond, publishers are refused
SWEPT_MAX: Final = 1000  # topics, sessions looked through in one tick for what nobody needs any more: some 10 ms

# -- of whom brands address --------------------------------------------------------------------------------------------
# Of one user or device. All of it, at worst, is 64 x (64 + 64 + 256) bytes and 100 topics: 40 KB, and an index as
# large; of a person as they are 10 tags and attributes and 5 topics, 1 KB. 1,000 entries of the consent log are 100 KB:
# somebody who changes their mind each day for three years. Beyond, the oldest go.
TAGS_MAX: Final = 64
ATTRIBUTES_MAX: Final = 64
VALUE_BYTES_MAX: Final = 256
TOPICS_MAX: Final = 100
CONSENT_LOG_MAX: Final = 1000
FOLLOWS_MAX: Final = 100  # 150 bytes each, and as much of who said stop: 30 KB
FOLLOW_EVERY_S_MAX: Final = 14 * 86400  # between two; what waits for so long is of use for a week more:
FOLLOW_TTL_S: Final = 21 * 86400
# An item that changes all the time is told of so often: 100 prices in a minute are 7 messages. Changes are looked for
# once a second, so many in one go: of those that nobody follows 100,000 are gone in 2 s.
FOLLOWED_EVERY_S: Final = 10.0
CHANGES_LOOK_S: Final = 1.0
CHANGES_AT_ONCE: Final = 1000
PREFERENCES_BYTES_MAX: Final = 16 << 10  # on `up/preferences`: 100 topics and 100 follows of 64 bytes are 15 KB
LOCALE_BYTES_MAX: Final = 35  # BCP 47 wants room for so many
# Of one brand, which asks each of its users: 64 terms are some 30 us of each, 3 s of 100,000 at worst, in pages.
SEGMENTS_MAX: Final = 1000
CONDITION_BYTES_MAX: Final = 4096
CONDITION_TERMS_MAX: Final = 64  # segments that it refers to included
CONDITION_DEPTH_MAX: Final = 16  # of parentheses and NOTs, segments within segments included
CAPS_MAX: Final = 8
CAP_MAX: Final = 1000  # messages: so many of one recipient are looked at
CAP_S_MAX: Final = 31 * 86400
# Looked at in one go, while connecting clients' lookups wait: 5 to 10 ms.
AUDIENCE_PAGE: Final = 1000
AUDIENCE_TERMS: Final = 8  # with more of them, fewer at a time
AUDIENCE_SOURCES_MAX: Final = 8  # each gives a page of candidates; where there are more, all of the brand are asked
ADDRESS_PLACES_MAX: Final = 1000  # stores, and topics, that one request names

# -- the bridge ------------------------------------------------------------------------------------------------------
# Named one by one in a request: 10,000 names of 30 bytes are 300 KiB, a third of the largest packet. A condition or a
# topic addresses as many as there are.
ADDRESSED_MAX: Final = 10_000
RECIPIENTS_MAX: Final = 1_000_000  # of one message: 150 MB of the books
# Lists and objects within each other in a notification's data: nobody means more, and readers of JSON recurse.
DATA_DEPTH_MAX: Final = 64
TTL_S: Final = 7 * 86400
TTL_MAX_S: Final = 28 * 86400
# What became of a message is kept for so long after it was accepted: 150 bytes for each recipient, so 100,000 a day
# are 450 MB in the books.
MESSAGES_KEPT_S: Final = 30 * 86400
PURGED_MAX: Final = 1000  # recipients in one transaction: 10 ms
# A complaint comes within half a year, or not at all. 100 conversations a day of 10 entries are 180,000 rows, 40 MB.
CONVERSATIONS_KEPT_S: Final = 180 * 86400
QUESTIONS_KEPT_S: Final = 90 * 86400  # a quarter, in which somebody looks what content is missing
CONSENTS_KEPT_S: Final = 3 * 365 * 86400  # so long it may have to be shown that somebody had agreed
AUDIT_KEPT_S: Final = 365 * 86400  # 1,000 entries a day are 70 MB
FORGOTTEN_AT_ONCE: Final = 500  # rows in one transaction: 10 ms
LOCAL_TTL_MIN_S: Final = 27 * 3600  # from the first to the last place where it is nine o'clock
NOT_BEFORE_MAX_S: Final = 90 * 86400
IDEMPOTENCY_S: Final = 86400
IDEMPOTENCY_MAX_S: Final = 7 * 86400

# -- erasing a person --------------------------------------------------------------------------------------------------
ERASED_AT_ONCE: Final = 500  # rows in one transaction: 10 ms
# A database of up to so many bytes is written anew at once, which holds up who writes into it for half a second; a
# larger one before the broker listens again.
REWRITTEN_BYTES_MAX: Final = 64 << 20

# -- links to other brokers --------------------------------------------------------------------------------------------
# Each has a thread and a connection of its own, and holds at worst LINK_HELD_BYTES_MAX and a packet of what came, and
# OUT_BYTES_MAX and a packet of what goes: 10 MiB. 32 are 320 MiB.
LINKS_MAX: Final = 32
LINKS_OF_BRAND_MAX: Final = 8
LINK_MAPPINGS_MAX: Final = 16  # in each direction; with those of 8 links 33,000 pairs are compared at a change: 40 ms
# Not acknowledged, in each direction. Over a line of 20 ms that is 3,200 messages a second.
LINK_IN_FLIGHT_MAX: Final = 64
LINK_HELD_BYTES_MAX: Final = 4 << 20  # that came and are not acknowledged; above it their broker waits
LINK_PASSED_MAX: Final = 8  # links that one message may have passed; more is a circle that nobody has seen
LINK_RETRY_S_MAX: Final = 60.0  # between two attempts to publish here what was refused for want of room
LINK_SESSION_S: Final = 7 * 86400  # so long their broker keeps what it has for us; the most that AWS IoT does
LINK_STOP_S: Final = 2.0  # to let what is under way arrive, when a link stops

# -- campaigns -------------------------------------------------------------------------------------------------------
CAMPAIGNS_MAX: Final = 1000  # of one brand
CAMPAIGN_VARIANTS_MAX: Final = 10
CAMPAIGN_BYTES_MAX: Final = 1 << 20  # its definition with the content of all variants; 4 KiB are usual
CAMPAIGN_RUNS_SHOWN: Final = 30
# What figures are made of: the latest messages of a campaign, up to so many recipients. 100,000 take 50 ms, by store
# 250 ms.
CAMPAIGN_MESSAGES_MAX: Final = 1000
FIGURES_RECIPIENTS_MAX: Final = 1_000_000
UNOPENED_PAGE: Final = 1000  # recipients of an earlier message looked at, and addressed, at once

# -- the fleet -------------------------------------------------------------------------------------------------------
# Who came and went is written so often, and so many in one transaction: 20,000 that come back at once are 20 of them,
# of some 5 ms each.
PRESENCE_S: Final = 5.0
PRESENCE_AT_ONCE: Final = 1000
COMMAND_DEVICES_MAX: Final = 100_000  # 100 bytes each in the books, and what each of them says
COMMANDS_OPEN_MAX: Final = 100  # of one brand; each is looked at once a second while it runs
COMMANDS_KEPT: Final = 100  # of one brand that are over: with 20,000 devices of a word each 200 MB
COMMAND_BYTES_MAX: Final = 16 << 10  # its arguments
COMMAND_STAGES_MAX: Final = 20
COMMAND_TTL_MAX_S: Final = 28 * 86400
COMMAND_AT_ONCE: Final = 500  # published in one turn of the loop: 5 ms
RESULT_BYTES_MAX: Final = 16 << 10  # on `up/result`: 1,000 characters each of output and error, which the SDK sends
CONFIG_BYTES_MAX: Final = 16 << 10  # of one device: 200 settings of 80 bytes; of 20,000 devices 300 MB at worst
REPORT_BYTES_MAX: Final = CONFIG_BYTES_MAX + (4 << 10)  # on `up/reported`: that, and an error
SAYING_BYTES_MAX: Final = REPORT_BYTES_MAX  # the most that may be said on any `up/` topic that is written down
CONFIG_AT_ONCE: Final = 100  # devices that are told before that is written down

# -- questions -------------------------------------------------------------------------------------------------------
QUESTION_MAX: Final = 1000  # characters: nobody types more into a search field
QUESTION_BYTES_MAX: Final = 8 << 10  # on `up/ask`: as many, escaped in JSON, or of four bytes each
CHOICE_MAX: Final = 160  # an item, and what is wanted with it; a route, and an id of its server's
# A device asks once in so long, and so many at once before that counts: a person types slower, a flood is bounded to
# a five-hundredth of what one core answers.
QUESTION_EVERY_S: Final = 0.5
QUESTIONS_AT_ONCE: Final = 20
ASKERS_KEPT: Final = 20_000  # of whom that is remembered before those who have rested are forgotten: 2 MB
# Waiting to be answered, of all: 10 s of work at 1,000 in a second. Beyond, who asks is told that we are busy, and
# sooner those whose brand has more waiting than there is room for yet.
QUESTIONS_MAX: Final = 10_000
QUESTIONS_PAGE: Final = 20_000  # counted in one go, for figures: 100 ms in which the log of the database stays
UNANSWERED_MAX: Final = 1000  # different questions without an answer, and questions, in one list: 1 MB
QUESTIONS_TOGETHER: Final = 16  # looked up in one go of the process that does: 5 ms, so that none waits for many
QUESTIONS_TOGETHER_S: Final = 10.0  # they take 5 ms: after this the process hangs and is started again
CONTENT_WAITING_MAX: Final = 64 << 20  # bytes of one brand's changes that wait: 100,000 items, a minute of work
ANSWER_TTL_S: Final = 3600  # an answer that reaches nobody within that time is of no use any more
QUESTION_WORDS_MAX: Final = 32  # that are looked for; the rest of a long question says little more
WORD_MAX: Final = 40  # characters of it that count

# Items of one brand, in all languages: 2.5 KB each on the disk with their words, so 500 MB.
ITEMS_MAX: Final = 200_000
ITEM_TITLE_MAX: Final = 200
ITEM_BODY_MAX: Final = 4000  # characters: what a screen shows of one answer
ITEM_KEYWORDS_MAX: Final = 100
ITEM_KEYWORD_MAX: Final = 100
ITEM_PLACES_MAX: Final = 100  # stores, and tags, that an item is for
ITEM_DATA_BYTES_MAX: Final = 16 << 10
ITEM_BYTES_MAX: Final = 64 << 10  # as it is written in a file: a body of four bytes a character, data, keywords
ITEM_HEAD_BYTES_MAX: Final = 32 << 10  # of a Markdown file's, in YAML: data, and 100 keywords
ITEMS_AT_ONCE: Final = 1000  # in one request, and in one transaction: 0.5 s of threads beside the loop
ITEMS_REFUSED_TOLD: Final = 50  # of one request on a topic, one by one: 20 KB
ITEMS_PAGE_MAX: Final = 1000
ITEMS_REMOVED_AT_ONCE: Final = 500  # in one transaction: 20 ms
SPANS_MAX: Final = 42  # of hours in a week: six a day
RENDERED_MAX: Final = 16_384  # characters of a template, filled in
TEMPLATE_DEPTH_MAX: Final = 20
TEMPLATE_NODES_MAX: Final = 1000  # names, filters, texts: 250 prices; they are parsed in 5 ms
# Characters and values that filters and comparisons of one template look at, four times what may come out: 10 ms.
TEMPLATE_WORK_MAX: Final = 1 << 16
RULES_MAX: Final = 256 << 10  # bytes of one brand's rules: 200 commands with a text in three languages
TEXT_MAX: Final = 4096
# What the server of a brand is asked at a time: with 2 KB each 2 MB. Beyond, the route says what is said instead.
SERVER_QUESTIONS_MAX: Final = 1000
SERVER_HISTORY: Final = 10  # of what was said before: what a language model wants to know
SERVER_ANSWER_BYTES_MAX: Final = 32 << 10  # its text four bytes a character, and data
SERVER_CHOICES_MAX: Final = 10

# -- conversations with persons ----------------------------------------------------------------------------------------
# Of one brand, that wait or are with an agent: 600 bytes each in memory, 3 MB, all looked at when one is given to
# somebody. 100 agents with 50 each; beyond, customers are told that nobody can be asked.
INBOX_OPEN_MAX: Final = 5000
AGENTS_MAX: Final = 500  # of one brand
AGENT_MOST_MAX: Final = 1000  # conversations at a time
AGENT_PLACES_MAX: Final = 100  # stores, and tags
AGENT_TITLE_MAX: Final = 64
CANNED_MAX: Final = 1000  # of one brand, in all languages: 4 MB at worst
REPLY_MAX: Final = 4096  # characters: the body of a notification
INBOX_PAGE_MAX: Final = 500  # conversations in one answer: 300 KB
ENTRIES_MAX: Final = 1000  # of one conversation in one answer; with 2 KB of answer each 2 MB on the admin socket
INBOX_EVENTS_MAX: Final = 10_000  # that agents are still to be told: 10 MB; beyond, the oldest are dropped
READS_WAITING_MAX: Final = 500  # requests of a brand that look into its inbox, one of each agent: 4 MB, 1 s of work
READ_BYTES_MAX: Final = 8192  # of one of them; what is longer is not right, and refused in the books
INBOX_EVENT_TTL_S: Final = 3600  # who comes later sees the list
INBOX_SWEEP_S: Final = 5.0  # between two looks at who waits for too long
IDLE_AT_ONCE: Final = 1000  # silent conversations closed in one transaction: 10 ms
# Of a device.
VOICE_BYTES_MAX: Final = 1024  # on `up/conversation`, `up/typing`, `up/history`
HISTORY_MAX: Final = 100  # entries in one answer to a device; of 2 KB each
HISTORIES_MAX: Final = 64  # asked for and not answered, of all; one of each device
TYPING_S: Final = 1.0  # so often what a device says of that goes on
TYPING_SHOWN_S: Final = 6.0  # so long it counts
TYPISTS_KEPT: Final = 20_000  # of whom that is remembered, before those are forgotten for whom it is over: 2 MB
