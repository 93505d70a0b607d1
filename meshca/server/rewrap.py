"""`meshca keys rewrap` on a home, whether its server runs or not.

Rules kept here: what is to be the passphrase from now on is durable before a key depends on it; the passphrase that
`init` generated into the home goes once no key needs it.
"""

from __future__ import annotations

import os

from meshca.keys.files import KeyFolder
from meshca.keys.passphrase import Passphrase, Sources, settle
from meshca.keys.rewrap import Rewrapped, rewrap
from meshca.server.config import Config
from meshca.server.home import Home
from meshca.server.house import SystemClock, store_url
from meshca.store.engine import open_store
from meshca.store.sealed import SealedKeys


def rewrap_home(home: Home, config: Config, sources: Sources, change: tuple[Passphrase, Passphrase]) -> Rewrapped:
    """Put every sealed key of the home and of its database under another passphrase; ``change`` is from what to what.

    Raises:
        MeshcaError: It could not be done; what the message does not say has not changed.
    """
    old, new = change
    clock = SystemClock()
    with open_store(store_url(home, config), clock=clock.now) as store:
        store.require_current()
        rows = SealedKeys(store, clock.now, actor=f"uid:{os.getuid()}")
        done = rewrap(KeyFolder(home.keys), rows, old.value, new.value)
    settle(sources, old, new)
    return done
