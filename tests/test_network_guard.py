"""The guard of conftest.py, which keeps every other test from needing a network without saying so."""

import socket
import threading

import pytest


def test_loopback_is_open():
    with socket.create_server(("127.0.0.1", 0)) as server:
        answer = threading.Thread(target=lambda: server.accept()[0].sendall(b"here"))
        answer.start()
        with socket.create_connection(("localhost", server.getsockname()[1]), timeout=5) as client:
            assert client.recv(4) == b"here"
        answer.join()


@pytest.mark.parametrize("address", ["192.0.2.1", "8.8.8.8", "::ffff:192.0.2.1", "example.org"])
def test_other_machines_are_refused_before_anything_is_sent(address):
    with pytest.raises(RuntimeError, match="this machine only"):
        socket.create_connection((address, 80), timeout=1)
    kind = socket.AF_INET6 if ":" in address else socket.AF_INET
    for reach in (
        lambda sock: sock.connect((address, 80)),
        lambda sock: sock.connect_ex((address, 80)),
        lambda sock: sock.sendto(b"x", (address, 53)),
    ):
        with (
            socket.socket(kind, socket.SOCK_DGRAM) as sock,
            pytest.raises(RuntimeError, match="this machine"),
        ):
            reach(sock)
