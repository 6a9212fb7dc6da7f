"""Images of a request: data URLs decoded, and remote ones fetched where the server may.

Requests come from strangers. A remote address is resolved here, every address it has must be public, and the
connection goes to the very address that was checked, for the first address and for each redirect: a name that
later resolves to something else, or a redirect to an internal service, reaches nothing. No proxy is asked, no
credentials are sent, and no file of this machine is ever opened.
"""

from __future__ import annotations

import base64
import binascii
import http.client
import ipaddress
import socket
import ssl
import time
from urllib.parse import urljoin, urlsplit

from multimodal_ai.functions.canonical import short_json
from multimodal_ai.serving.errors import ApiError

REDIRECTS = 3
SECONDS = 10.0
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


def image_bytes(url: str, place: str, max_bytes: int, fetch: bool) -> bytes:
    """The bytes of an image that a request names. Blocks while it fetches. Raises ApiError.

    place: where in the request the URL stands. fetch: whether http and https are allowed.
    """
    if url.startswith("data:"):
        return _decoded(url, place, max_bytes)
    if not url.startswith(("http://", "https://")):
        raise _refused(place, f"{short_json(url, 60)}: send the image as data:image/…;base64,…")
    if not fetch:
        raise _refused(place, "this server fetches no images; send it as data:image/…;base64,…")
    return _fetched(url, place, max_bytes)


def _refused(place: str, message: str, code: str = "invalid_image_url") -> ApiError:
    return ApiError(400, f"{place}: {message}", code, place)


def _decoded(url: str, place: str, max_bytes: int) -> bytes:
    head, comma, body = url.partition(",")
    if not comma or not head.lower().endswith(";base64"):
        raise _refused(place, f"{short_json(head, 60)}: expected data:image/…;base64,…")
    if len(body) > max_bytes * 4 // 3 + 1024:
        raise _refused(place, f"the image is larger than {max_bytes:,} bytes; make it smaller", "image_too_large")
    try:
        data = base64.b64decode("".join(body.split()).encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError) as error:
        raise _refused(place, f"not Base64 ({error}); encode the image again") from None
    if len(data) > max_bytes:
        raise _refused(place, f"the image is larger than {max_bytes:,} bytes; make it smaller", "image_too_large")
    return data


def _fetched(url: str, place: str, max_bytes: int) -> bytes:
    deadline = time.monotonic() + SECONDS
    for _ in range(REDIRECTS + 1):
        connection = _connection(url, place, deadline)
        parts = urlsplit(url)
        try:
            connection.request("GET", (parts.path or "/") + (f"?{parts.query}" if parts.query else ""))
            response = connection.getresponse()
            if response.status in (301, 302, 303, 307, 308):
                url = urljoin(url, response.headers.get("Location", ""))
                continue
            if response.status != 200:
                raise _refused(place, f"the address answers with status {response.status}")
            data = bytearray()
            while chunk := response.read1(1 << 16):
                data += chunk
                if len(data) > max_bytes:
                    raise _refused(place, f"the image is larger than {max_bytes:,} bytes", "image_too_large")
                if time.monotonic() > deadline:
                    raise TimeoutError
            return bytes(data)
        except (OSError, http.client.HTTPException, ValueError):
            raise _refused(place, "the image could not be fetched") from None
        finally:
            connection.close()
    raise _refused(place, f"more than {REDIRECTS} redirects")


def _connection(url: str, place: str, deadline: float) -> http.client.HTTPConnection:
    """A connection to a public address of the URL's host; what is connected to is what was checked."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise _refused(place, "not an address that can be fetched") from None
    secure = parts.scheme == "https"
    if parts.scheme not in ("http", "https") or not host or parts.username or parts.password:
        raise _refused(place, "only plain http and https addresses are fetched")
    if port not in (None, 443 if secure else 80):
        raise _refused(place, f"port {port}: only the usual ports are fetched from")
    try:
        found = socket.getaddrinfo(host, port or (443 if secure else 80), type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise _refused(place, f"{short_json(host, 60)} cannot be resolved") from None
    if not found or not all(is_public(str(address[4][0])) for address in found):
        raise _refused(place, f"{short_json(host, 60)} is not a public address")
    pinned = str(found[0][4][0])
    left = max(deadline - time.monotonic(), 0.1)
    connection: http.client.HTTPConnection
    if secure:
        connection = http.client.HTTPSConnection(host, timeout=left, context=ssl.create_default_context())
    else:
        connection = http.client.HTTPConnection(host, timeout=left)
    # HTTPConnection.connect asks this for its socket; TLS still checks the certificate against the host's name.
    connection._create_connection = lambda address, *rest: socket.create_connection(  # type: ignore[attr-defined]
        (pinned, address[1]), left
    )
    return connection


def is_public(address: str) -> bool:
    """Whether an IP address is reachable on the public internet, seen through every way to wrap an IPv4 one."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        wrapped = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if ip in _NAT64:
            wrapped = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if wrapped is not None and not is_public(str(wrapped)):
            return False
    return ip.is_global and not ip.is_multicast
