"""A stand-in for Gradio's helper: takes its command line, says what that says, and carries bytes to the app.

What is asked for at the server's address goes to the app, as a link's requests would.
"""

from __future__ import annotations

import argparse
import socket
import threading

parser = argparse.ArgumentParser()
parser.add_argument("kind", choices=["http"])
for flag in ("-n", "-l", "-i", "--sd", "--server_addr", "--tls_trusted_ca_file"):
    parser.add_argument(flag, required=True)
for flag in ("--uc", "--ue", "--disable_log_color", "--tls_enable"):
    parser.add_argument(flag, action="store_true", required=True)
asked = parser.parse_args()


def carry(source: socket.socket, sink: socket.socket) -> None:
    while data := source.recv(65536):
        sink.sendall(data)
    sink.shutdown(socket.SHUT_WR)


with open(asked.tls_trusted_ca_file, encoding="utf-8") as file:
    assert file.read() == "a certificate"
here, port = asked.server_addr.rsplit(":", 1)
with socket.create_server((here, int(port))) as server:
    print("[I] login to server success", flush=True)
    print("[I] [abc] start proxy success: http://abc.gradio.live", flush=True)
    while True:
        near, _ = server.accept()
        far = socket.create_connection((asked.i, int(asked.l)))
        for pair in ((near, far), (far, near)):
            threading.Thread(target=carry, args=pair, daemon=True).start()
