#!/usr/bin/env python3
"""Passes TLS connections on by the name that the client asks for, as a TLSRoute, an IngressRouteTCP with passthrough or an Ingress with ssl-passthrough does.

    sni_route.py PORT HOST=ADDRESS...

A connection without a name, or with one that has no route, is closed. Used by mesh.py, which takes the names from the rendered manifests.
"""
import socket
import struct
import sys
import threading

# More than any ClientHello.
MAX_HELLO_BYTES = 64 << 10
HELLO_TIMEOUT_S = 10


def name_of(hello):
    """The server name in a ClientHello, or None. Raises IndexError or struct.error where it is cut short (RFC 8446, 4.1.2; RFC 6066, 3)."""
    at = 4 + 2 + 32
    at += 1 + hello[at]
    at += 2 + struct.unpack_from("!H", hello, at)[0]
    at += 1 + hello[at]
    end = at + 2 + struct.unpack_from("!H", hello, at)[0]
    at += 2
    while at < end:
        kind, length = struct.unpack_from("!HH", hello, at)
        if kind == 0:
            size = struct.unpack_from("!H", hello, at + 4 + 3)[0]
            return hello[at + 9:at + 9 + size].decode("ascii")
        at += 4 + length
    return None


def read_hello(client):
    """What came first, and the ClientHello in it, which may be in several records."""
    raw, hello = b"", b""
    while len(raw) < MAX_HELLO_BYTES:
        piece = client.recv(16384)
        if not piece:
            break
        raw += piece
        hello, at = b"", 0
        while at + 5 <= len(raw) and raw[at] == 22:
            length = struct.unpack_from("!H", raw, at + 3)[0]
            hello += raw[at + 5:at + 5 + length]
            at += 5 + length
        if len(hello) >= 4 and len(hello) >= 4 + int.from_bytes(hello[1:4], "big"):
            return raw, hello
    raise ValueError("no ClientHello")


def copy(source, target):
    try:
        while piece := source.recv(65536):
            target.sendall(piece)
    except OSError:
        pass
    for end, how in ((target, socket.SHUT_WR), (source, socket.SHUT_RD)):
        try:
            end.shutdown(how)
        except OSError:
            pass


def serve(client, routes):
    with client:
        try:
            client.settimeout(HELLO_TIMEOUT_S)
            raw, hello = read_hello(client)
            host = name_of(hello)
            address, port = routes[host].rsplit(":", 1)
        except (OSError, ValueError, KeyError, IndexError, struct.error) as error:
            print(f"closed: {error!r}", flush=True)
            return
        client.settimeout(None)
        with socket.create_connection((address, int(port)), timeout=HELLO_TIMEOUT_S) as server:
            server.settimeout(None)
            print(f"{host} goes to {address}:{port}", flush=True)
            server.sendall(raw)
            back = threading.Thread(target=copy, args=(server, client), daemon=True)
            back.start()
            copy(client, server)
            back.join()


def main():
    routes = dict(route.split("=", 1) for route in sys.argv[2:])
    with socket.create_server(("127.0.0.1", int(sys.argv[1])), backlog=64) as listener:
        while True:
            client, _ = listener.accept()
            threading.Thread(target=serve, args=(client, routes), daemon=True).start()


main()
