from __future__ import annotations

from typing import Any

import pytest

from meshca.envoy import retries
from meshca.mesh.spec.routes import GrpcRetryPolicy, HttpRetryPolicy

SERVER = [500, 501, 502, 503, 504, 505, 506, 507, 508, 510, 511]
BASE = {"maxRetries": 3, "perRetryTimeout": {"unit": "ms", "value": 250}}


@pytest.mark.parametrize(
    ("events", "retry_on", "statuses"),
    [
        ({"httpRetryEvents": ["server-error"]}, {"reset", "retriable-status-codes"}, SERVER),
        ({"httpRetryEvents": ["gateway-error"]}, {"reset", "retriable-status-codes"}, [502, 503, 504]),
        ({"httpRetryEvents": ["client-error"]}, {"retriable-status-codes"}, [409]),
        ({"httpRetryEvents": ["stream-error"]}, {"refused-stream"}, []),
        ({"tcpRetryEvents": ["connection-error"]}, {"connect-failure"}, []),
        (
            {"httpRetryEvents": ["client-error", "gateway-error"]},
            {"reset", "retriable-status-codes"},
            [409, 502, 503, 504],
        ),
        ({"grpcRetryEvents": ["cancelled", "deadline-exceeded"]}, {"cancelled", "deadline-exceeded"}, []),
        (
            {"grpcRetryEvents": ["internal", "unavailable"], "tcpRetryEvents": ["connection-error"]},
            {"internal", "unavailable", "connect-failure"},
            [],
        ),
    ],
)
def test_each_event_has_its_words(events: dict[str, Any], retry_on: set[str], statuses: list[int]) -> None:
    shape = GrpcRetryPolicy if "grpcRetryEvents" in events else HttpRetryPolicy
    made = retries.policy(shape.model_validate({**BASE, **events}))
    assert set(made.retry_on.split(",")) == retry_on
    assert list(made.retriable_status_codes) == statuses
    assert (made.num_retries.value, made.per_try_timeout.ToMilliseconds()) == (3, 250)
    assert [one.name for one in made.retry_host_predicate] == ["envoy.retry_host_predicates.previous_hosts"]
    assert made.host_selection_retry_max_attempts == 5


def test_without_a_policy_app_meshs_invisible_one_holds() -> None:
    made = retries.policy(None)
    assert set(made.retry_on.split(",")) == {
        "connect-failure", "refused-stream", "reset", "retriable-status-codes", "unavailable",
    }  # fmt: skip
    assert (made.num_retries.value, list(made.retriable_status_codes)) == (2, [503])


def test_a_timeout_of_zero_is_none() -> None:
    policy = HttpRetryPolicy.model_validate({"maxRetries": 0, "perRetryTimeout": {"unit": "s", "value": 0}})
    made = retries.policy(policy)
    assert not made.HasField("per_try_timeout")
    assert (made.num_retries.value, made.retry_on) == (0, "")
