"""At the other end of a stream: a process of this host, or an agent that speaks for processes of its own.

Rule: an agent has made the keys of those behind it, so that it is given everything but certificates with keys.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from meshca.attest.process import Process

_NODE_DIGITS = 8


@dataclass(frozen=True, slots=True)
class AgentPeer:
    """An agent over TCP, attested by the certificate that it called with."""

    agent_id: str


Peer = Process | AgentPeer


def actor_of(peer: Peer) -> str:
    """Return how audit and log call it."""
    return f"uid:{peer.uid}" if isinstance(peer, Process) else f"agent:{peer.agent_id}"


def holder_name(peer: Peer, node_id: str) -> str:
    """Return how the ledger calls who holds a leaf at this peer, under a node id."""
    node = node_word(node_id)
    if isinstance(peer, Process):
        return f"stream:{peer.pid}:{peer.start_time}:{node}"
    return agent_holder(peer.agent_id, node)


def agent_holder(agent_id: str, word: str) -> str:
    """Return how the ledger calls a holder behind an agent, which calls it by this word."""
    return f"agent:{agent_id}:{word}"


def node_word(node_id: str) -> str:
    """Return a short word for a node id, the same on server and agent."""
    return hashlib.sha256(node_id.encode()).hexdigest()[:_NODE_DIGITS]
