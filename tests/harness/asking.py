"""One plain request, seen from the application."""

from __future__ import annotations

import http.client

Address = tuple[str, int]


def ask(at: Address, host: str = "") -> tuple[int, str]:
    """Return status and `x-peer` of one request; 0 where there was no answer, and Envoy's words where it refused."""
    connection = http.client.HTTPConnection(*at, timeout=5)
    try:
        connection.request("GET", "/", headers={"Host": host or f"{at[0]}:{at[1]}"})
        answer = connection.getresponse()
        text = answer.read().decode(errors="replace")
        return answer.status, answer.getheader("x-peer") or ("" if answer.status == http.HTTPStatus.OK else text)
    except (OSError, http.client.HTTPException) as error:
        return 0, f"{type(error).__name__}: {error}"
    finally:
        connection.close()
