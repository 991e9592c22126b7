# SPDX-License-Identifier: Apache-2.0
"""How long the body after a head is, and whether HTTP/1 continues after it.

RFC 9112, 6.3, from the observer's side: there is an answer for every head.
"""

from __future__ import annotations

from profiler.ingest.http.fields import FAULTY, UNTIL_CLOSE, lower
from profiler.ingest.http.message import REQUEST, Head

TUNNEL = "tunnel"


def is_interim(status: int | None) -> bool:
    """Whether a response with ``status`` precedes the final one.

    RFC 9110, 15: an invalid status, such as 000, is treated like 5xx, so it is final.
    """
    return status is not None and 100 <= status < 200


def body_length(head: Head) -> int:
    """Return the length of the body after ``head``, or UNTIL_CLOSE, CHUNKED or FAULTY.

    RFC 9112, 6.3; rules 3 to 6 are settled by the fields alone (``fields.py``).
    """
    length = head.fields.length
    if head.type == REQUEST:
        # 7. A request that says nothing of a body has none.
        if length is None:
            return 0
        # 4. A request cannot last until the close: nobody could answer it.
        return FAULTY if length == UNTIL_CLOSE else length
    # 1. No body in 1xx, 204, 304 and in the answer to HEAD, whatever the fields say.
    # 2. Nor in a 2xx answer to CONNECT.
    status = head.status or 0
    if 100 <= status < 200 or status in (204, 304) or switches_to(head) is not None:
        return 0
    if head.request is not None and head.request.method == "HEAD":
        return 0
    # 8. Any other response that says nothing lasts until the close.
    return UNTIL_CLOSE if length is None else length


def switches_to(head: Head) -> str | None:
    """Return what both directions carry after this response; ``None``: HTTP/1 continues.

    Behind ``101`` it is what the Upgrade field names, in lower case, such as
    ``websocket`` or ``h2c``; ``""`` if there is no such field.
    """
    status, request = head.status, head.request
    # RFC 9110, 15.2.2: 101 Switching Protocols
    if status == 101:
        return lower(head.fields.get("upgrade") or "")
    # RFC 9110, 9.3.6: a 2xx response to CONNECT opens a tunnel.
    if request is not None and request.method == "CONNECT":
        return TUNNEL if status is not None and 200 <= status < 300 else None
    return None
