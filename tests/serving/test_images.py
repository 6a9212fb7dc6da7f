"""Images by address: only public ones are ever connected to, whatever names and redirects say."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from multimodal_ai.serving.errors import ApiError
from multimodal_ai.serving.images import image_bytes, is_public

PRIVATE = (
    "127.0.0.1 10.1.2.3 192.168.0.1 172.16.0.1 169.254.169.254 0.0.0.0 100.64.0.1 224.0.0.1 255.255.255.255 :: ::1 "
    "fe80::1 fe80::1%eth0 fc00::1 ::ffff:127.0.0.1 ::ffff:10.0.0.1 64:ff9b::7f00:1 2002:7f00:1:: ff02::1"
)


@pytest.mark.parametrize("address", PRIVATE.split())
def test_no_wrapping_makes_a_private_address_public(address: str) -> None:
    assert not is_public(address)


def test_public_addresses_are_public() -> None:
    assert is_public("8.8.8.8") and is_public("2606:4700:4700::1111")


PUBLIC = "93.184.216.34"
NAMES = {"pictures.example": [PUBLIC], "inside.example": ["10.0.0.1"], "both.example": [PUBLIC, "192.168.0.1"]}


class _Pictures(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        redirects = {
            "/moved": "http://pictures.example/a.png",
            "/inside": "http://inside.example/secret",
            "/here": "http://127.0.0.1/secret",
            "/round": "http://pictures.example/round",
            "/file": "file:///etc/passwd",
            "/port": "http://pictures.example:8080/a.png",
        }
        if self.path in redirects:
            self.send_response(302)
            self.send_header("Location", redirects[self.path])
            self.end_headers()
        elif self.path == "/missing":
            self.send_error(404)
        else:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"x" * (5000 if self.path == "/long" else 10))

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def connected(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Addresses that were connected to; the public one is a server of this test."""
    server = HTTPServer(("127.0.0.1", 0), _Pictures)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    addresses: list[str] = []

    def resolve(host: str, port: int, **options: object) -> list[object]:
        if host not in NAMES and not host[0].isdigit():
            raise socket.gaierror
        found = NAMES.get(host, [host])
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in found]

    def instead(address: tuple[str, int], *rest: object) -> socket.socket:
        addresses.append(address[0])
        connection = socket.socket()
        connection.settimeout(5)
        connection.connect(server.server_address)
        return connection

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.setattr(socket, "create_connection", instead)
    yield addresses
    server.shutdown()
    server.server_close()


def fetch(url: str) -> bytes:
    return image_bytes(url, "messages[0]", 1000, fetch=True)


def test_a_public_image_is_fetched_from_the_address_that_was_checked(connected: list[str]) -> None:
    assert fetch("http://pictures.example/a.png") == b"x" * 10
    assert fetch("http://pictures.example/moved") == b"x" * 10
    assert connected == [PUBLIC] * 3


@pytest.mark.parametrize(
    ("url", "connections"),
    [
        ("http://inside.example/a.png", 0),
        ("http://both.example/a.png", 0),
        ("http://127.0.0.1/a.png", 0),
        ("http://nowhere.example/a.png", 0),
        ("http://pictures.example:22/a.png", 0),
        ("http://name:secret@pictures.example/a.png", 0),
        ("http:///a.png", 0),
        ("http://[::1/a.png", 0),
        ("ftp://pictures.example/a.png", 0),
        ("http://pictures.example/inside", 1),
        ("http://pictures.example/here", 1),
        ("http://pictures.example/file", 1),
        ("http://pictures.example/port", 1),
        ("http://pictures.example/round", 4),
        ("http://pictures.example/missing", 1),
        ("http://pictures.example/long", 1),
    ],
)
def test_nothing_else_is_reached(connected: list[str], url: str, connections: int) -> None:
    with pytest.raises(ApiError) as caught:
        fetch(url)
    assert caught.value.status == 400 and connected == [PUBLIC] * connections


def test_nothing_is_fetched_unless_allowed(connected: list[str]) -> None:
    with pytest.raises(ApiError, match="fetches no images"):
        image_bytes("http://pictures.example/a.png", "messages[0]", 1000, fetch=False)
    assert not connected
