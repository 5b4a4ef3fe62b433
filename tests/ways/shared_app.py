"""launch.py with Gradio's server for links, and the source of its helper, on loopback: GRADIO_STANDIN names it."""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path

from gradio import networking, tunneling

import launch

there, helper = os.environ["GRADIO_STANDIN"], Path(__file__).with_name("frpc.py")
networking.GRADIO_API_SERVER = f"{there}/v3/tunnel-request"
tunneling.BINARY_URL = f"{there}/frpc"
tunneling.CHECKSUMS[tunneling.BINARY_URL] = hashlib.sha256(
    f"#!{sys.executable}\n{helper.read_text(encoding='utf-8')}".encode()
).hexdigest()

if __name__ == "__main__":
    sys.exit(launch.main())
