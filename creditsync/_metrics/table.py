"""
The metrics: a row for each. To add one is to add a row; a test demands that it is
on the dashboard or in an alert (C{deploy/}).
"""

from collections.abc import Callable, Mapping
from typing import Final, Literal, TypeAlias

from attrs import define

from creditsync._metrics.reading import (
    ROLES,
    Labels,
    Reading,
    rejections,
    requestCounts,
)
from creditsync.counters import Histogram

Value: TypeAlias = float | Histogram

_ROLES: Final = ("none", *ROLES.values())


@define
class Row:
    """
    One metric.

    @ivar name: Without C{creditsync_}, and without the C{_total} of a counter.
    @ivar help: Its C{HELP}: a sentence, which operators see.
    @ivar read: Returns its value; or with labels, its value for each
        combination of them.
    """

    kind: Literal["counter", "gauge", "histogram"]
    name: str
    help: str
    read: Callable[[Reading], Value | Mapping[Labels, Value]]
    labels: Labels = ()


ALWAYS: Final[tuple[Row, ...]] = (
    Row(
        "counter",
        "requests",
        "Requests answered, by command, status and error.",
        lambda it: requestCounts(it.counters),
        ("command", "status", "error"),
    ),
    Row(
        "histogram",
        "request_seconds",
        "Time from receiving a request to writing its reply.",
        lambda it: {(name,): each for name, each in it.counters.took.items()},
        ("command",),
    ),
    Row(
        "counter",
        "limit_refusals",
        "Requests and connections refused or closed, by the option of the limit"
        " reached.",
        lambda it: {(name,): n for name, n in it.counters.limits.items()},
        ("limit",),
    ),
    Row(
        "counter",
        "rule_refusals",
        "Operations refused by a rule of the file of --limits, by its name.",
        lambda it: {(name,): n for name, n in it.counters.rules.items()},
        ("rule",),
    ),
    Row(
        "counter",
        "token_rejections",
        "Requests without a valid token.",
        lambda it: rejections(it.counters),
    ),
    Row(
        "gauge",
        "waiters",
        "Requests waiting for a reply.",
        lambda it: len(it.service.waiters),
    ),
    Row(
        "gauge",
        "oldest_waiter_seconds",
        "How long the oldest of these requests has waited; 0 if there is none.",
        lambda it: it.oldestWaiter,
    ),
    Row(
        "counter",
        "timeouts",
        "Requests that timed out (504).",
        lambda it: it.counters.timeouts,
    ),
    Row(
        "counter",
        "late_events",
        "Operations booked after their request had timed out or its client had"
        " disconnected.",
        lambda it: it.counters.late,
    ),
    Row(
        "counter",
        "unmatched_events",
        "Trade events that were not caused by a request to this server.",
        lambda it: it.counters.unmatched,
    ),
    Row(
        "gauge",
        "finance_requests",
        "Finance requests that wait for approval, 100000 at most.",
        lambda it: it.approvals,
    ),
    Row(
        "gauge",
        "oldest_finance_request_seconds",
        "How long the oldest of these has waited; 0 if there is none.",
        lambda it: it.oldestApproval,
    ),
    Row(
        "gauge",
        "sessions",
        "Open connections, by the role of their last valid token.",
        lambda it: {(role,): it.sessions.roles[role] for role in _ROLES},
        ("role",),
    ),
    Row(
        "gauge",
        "unread_bytes",
        "Bytes queued for clients and not yet sent.",
        lambda it: it.sessions.unread,
    ),
    Row(
        "gauge",
        "stalled_sessions",
        "Connections paused because the client is not reading.",
        lambda it: it.sessions.stalled,
    ),
    Row(
        "gauge",
        "catching_up_sessions",
        "Sessions that are being sent earlier trade events (Subscribe with since).",
        lambda it: it.service.sessions.broadcast.catchingUp,
    ),
    Row(
        "counter",
        "aborted_readers",
        "Connections closed because the client left too much unread (max-unread).",
        lambda it: it.counters.limits.get("max-unread", 0),
    ),
    Row(
        "histogram",
        "reactor_lag_seconds",
        "How late the reactor made a scheduled call.",
        lambda it: it.reactorLag.histogram,
    ),
    Row(
        "gauge",
        "certificate_expiry_timestamp_seconds",
        "When the certificate of a port expires, in UNIX time.",
        lambda it: {(file,): end for file, end in it.service.expiries.items()},
        ("file",),
    ),
    Row(
        "counter",
        "audit_lines_lost",
        "Lines of the audit trail that could not be written.",
        lambda it: 0 if it.service.audit is None else it.service.audit.lost,
    ),
    Row(
        "gauge",
        "revocations_stale",
        "1 while the file of revoked tokens can't be used and its last good version"
        " is in force, otherwise 0.",
        lambda it: it.areRevocationsStale,
    ),
    Row(
        "gauge",
        "keys_stale",
        "1 while the JWK Set can't be used and its last good version is in force,"
        " otherwise 0.",
        lambda it: it.areKeysStale,
    ),
    Row(
        "gauge",
        "limits_stale",
        "1 while the former limits of what may be booked are in force because their"
        " last reload failed, otherwise 0.",
        lambda it: it.areLimitsStale,
    ),
)

# Of a runtime that counts what it books.
OF_BOOKING: Final[tuple[Row, ...]] = (
    Row(
        "counter",
        "operations_acknowledged",
        "Operations answered with 200.",
        lambda it: it.counters.acknowledged,
    ),
    Row(
        "counter",
        "operations_booked",
        "Operations committed to the ledger.",
        lambda it: it.counters.booked,
    ),
    Row(
        "counter",
        "operations_published",
        "Trade events published.",
        lambda it: it.counters.published,
    ),
    Row(
        "gauge",
        "operations_unbooked",
        "Operations acknowledged or published before they were booked: must be 0.",
        lambda it: it.counters.unbooked,
    ),
    Row(
        "gauge",
        "operations_unpublished",
        "Operations booked and not yet published: one batch at most, 0 at rest.",
        lambda it: it.counters.booked - it.counters.published,
    ),
    Row(
        "histogram",
        "queued_to_committed_seconds",
        "Time from queueing an operation to the end of its commit, measured for the"
        " oldest of each batch and counted for all of it.",
        lambda it: it.counters.queuedToCommitted,
    ),
    Row(
        "histogram",
        "committed_to_matched_seconds",
        "Time from the end of a commit to writing the replies it allows.",
        lambda it: it.counters.committedToMatched,
    ),
    Row(
        "histogram",
        "commit_seconds",
        "Time from handing a batch to the ledger until it is on disk.",
        lambda it: it.counters.commits,
    ),
    Row(
        "histogram",
        "commit_operations",
        "Operations per commit.",
        lambda it: it.counters.batches,
    ),
    Row(
        "gauge",
        "last_commit_timestamp_seconds",
        "When the last commit ended, in UNIX time; 0 before the first.",
        lambda it: it.counters.lastCommit or 0.0,
    ),
)

# Of a gateway to another platform.
OF_GATEWAY: Final[tuple[Row, ...]] = (
    Row(
        "gauge",
        "gateway_connected",
        "Whether the platform behind the gateway is connected: 1 or 0.",
        lambda it: it.gateway["connected"],
    ),
    Row(
        "gauge",
        "gateway_incomplete_seconds",
        "Age of the moment up to which the journal has all changes at the platform.",
        lambda it: it.gateway["incomplete"],
    ),
    Row(
        "gauge",
        "gateway_unsettled",
        "Operations sent to the platform whose outcome is unknown, and not held.",
        lambda it: it.gateway["unsettled"],
    ),
    Row(
        "gauge",
        "gateway_oldest_unsettled_seconds",
        "Age of the oldest of them; 0 if there is none.",
        lambda it: it.gateway["oldest"],
    ),
    Row(
        "gauge",
        "gateway_held",
        "Operations that wait for a person's decision.",
        lambda it: it.gateway["held"],
    ),
    Row(
        "counter",
        "gateway_alarms",
        "Things that people should know, as creditsync gateway report lists them.",
        lambda it: it.gateway["alarms"],
    ),
    Row(
        "counter",
        "gateway_replies_amiss",
        "Replies of the platform that were lost, late or doubled.",
        lambda it: {(kind,): it.gateway[kind] for kind in ("lost", "late", "doubled")},
        ("kind",),
    ),
    Row(
        "counter",
        "gateway_overtaking_events",
        "Events of the platform that came before the reply that names their order.",
        lambda it: it.gateway["overtaking"],
    ),
    Row(
        "counter",
        "gateway_missed_events",
        "Changes at the platform that only a look-up has shown.",
        lambda it: it.gateway["missed"],
    ),
    Row(
        "counter",
        "gateway_renewals",
        "New connections to the platform because no events came any more.",
        lambda it: it.gateway["renewals"],
    ),
    Row(
        "histogram",
        "gateway_reply_seconds",
        "Time from a request to the platform to its reply, unless that was lost.",
        lambda it: it.gateway["took"],
    ),
)

# Of a runtime that tells what it has queued.
OF_QUEUE: Final[tuple[Row, ...]] = (
    Row(
        "gauge",
        "queued_operations",
        "Operations waiting for their commit to end.",
        lambda it: it.queued,
    ),
    Row(
        "gauge",
        "oldest_queued_seconds",
        "How long the oldest of these operations has waited; 0 if there is none.",
        lambda it: it.oldestQueued,
    ),
)

# Of one of several servers on one ledger.
OF_NODE: Final[tuple[Row, ...]] = (
    Row(
        "gauge",
        "node_cannot_book",
        "1 while this server can't book, as PostgreSQL can't be reached or has lost"
        " something, otherwise 0.",
        lambda it: it.service.problem is not None,
    ),
    Row(
        "gauge",
        "node_incarnation",
        "How often the server of this name has connected to book, over all starts.",
        lambda it: {(it.node.name,): it.node.incarnation},
        ("node",),
    ),
    Row(
        "gauge",
        "node_synchronous",
        "1 if PostgreSQL has each commit wait for a second machine, otherwise 0.",
        lambda it: it.node.isSynchronous,
    ),
    Row(
        "gauge",
        "node_lanes",
        "Batches that this server can have under way at a time.",
        lambda it: it.node.laneCount,
    ),
    Row(
        "counter",
        "node_unknowns_settled",
        "Commits whose outcome was unknown, and was found out.",
        lambda it: it.node.unknowns,
    ),
    Row(
        "counter",
        "node_lock_retries",
        "Batches judged again because another server had locked the same accounts.",
        lambda it: it.node.retries,
    ),
    Row(
        "gauge",
        "node_doorbell_heard",
        "1 while notifications of PostgreSQL arrive, otherwise 0.",
        lambda it: it.node.isHeard,
    ),
    Row(
        "counter",
        "node_doorbell_rings",
        "Notifications of other servers that have arrived.",
        lambda it: it.node.rings,
    ),
    Row(
        "counter",
        "node_polls",
        "How often this server has looked for events without being notified.",
        lambda it: it.node.polls,
    ),
    Row(
        "gauge",
        "node_behind_events",
        "Events that were booked, when this server looked last, and are not published"
        " here.",
        lambda it: it.node.behind,
    ),
    Row(
        "gauge",
        "node_held_events",
        "Events that are known and can't be published yet.",
        lambda it: it.node.held,
    ),
    Row(
        "gauge",
        "node_read_age_seconds",
        "How long ago the journal was last read to its end.",
        lambda it: it.node.readAge,
    ),
)
