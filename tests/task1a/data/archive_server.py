"""An HTTP server on the loopback that serves archives, as badly as it is told to."""
import hashlib
import io
import re
import socket
import struct
import threading
import time
import zipfile
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def zipped(files: dict[str, bytes], top: str = "", method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """A zip of files, in the folder ``top``; the same files make the same zip."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", method) as archive:
        for name, text in files.items():
            archive.writestr(zipfile.ZipInfo(f"{top}/{name}" if top else name), text, method)
    return content.getvalue()


class ArchiveServer:
    """Serves files by name, in a thread, and counts what it sends.

    Args:
        files: content by name.
    """

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = dict(files)
        self.ranges = True
        """whether it answers requests for a part"""
        self.early = 0
        """number of bytes before the one asked for from which it sends a part"""
        self.lengths = True
        """whether it tells the size of a file"""
        self.cut: Callable[[int], int | None] = lambda length: None
        """number of bytes of ``length`` after which it breaks the connection, None for never"""
        self.refusals: dict[str, list[tuple[int, dict[str, str]]]] = {}
        """answers to the first requests of a name, with a status and headers"""
        self.bytes_per_second: float | None = None
        self.requests: list[tuple[str, str | None]] = []
        """name and ``Range`` of each request"""
        self.agents: list[str] = []
        """``User-Agent`` of each request"""
        self.times: list[float] = []
        """when each request came, in seconds"""
        self.sent: Counter[str] = Counter()
        """bytes sent by name"""
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/record/1/files/{name}"

    def md5(self, name: str) -> str:
        return hashlib.md5(self.files[name]).hexdigest()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _handler(server: "ArchiveServer") -> type[BaseHTTPRequestHandler]:  # noqa: N805
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                pass

            def do_GET(self) -> None:
                name, asked = self.path.rpartition("/")[2], self.headers.get("Range")
                server.requests.append((name, asked))
                server.times.append(time.monotonic())
                server.agents.append(self.headers["User-Agent"])
                if server.refusals.get(name):
                    status, headers = server.refusals[name].pop(0)
                    return self.refuse(status, headers)
                if name not in server.files:
                    return self.refuse(404, {})
                content, start = server.files[name], 0
                if asked and server.ranges:
                    start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1])
                    if start >= len(content):
                        return self.refuse(416, {"Content-Range": f"bytes */{len(content)}"})
                    start = max(0, start - server.early)
                    self.send_response(206)
                    total = len(content) if server.lengths else "*"
                    self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{total}")
                else:
                    self.send_response(200)
                self.send_header("Accept-Ranges", "none")  # as Zenodo does, which serves them
                self.send_header("Retry-After", "59")
                if server.lengths:
                    self.send_header("Content-Length", str(len(content) - start))
                else:
                    self.send_header("Connection", "close")
                self.end_headers()
                self.send(name, memoryview(content)[start:])

            def send(self, name: str, content: memoryview) -> None:
                end = server.cut(len(content))
                for position in range(0, len(content) if end is None else end, 1 << 16):
                    piece = content[position:position + (1 << 16)]
                    if end is not None:
                        piece = piece[:end - position]
                    try:
                        self.wfile.write(piece)
                    except OSError:  # the client is gone
                        self.close_connection = True
                        return
                    server.sent[name] += len(piece)
                    if server.bytes_per_second:
                        time.sleep(len(piece) / server.bytes_per_second)
                if end is not None:
                    if end % 2:  # a reset instead of an orderly end
                        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    self.close_connection = True
                    self.connection.close()

            def refuse(self, status: int, headers: dict[str, str]) -> None:
                self.send_response(status)
                for key, value in headers.items():
                    self.send_header(key, value)
                if "Content-Length" not in headers:
                    self.send_header("Content-Length", "0")
                self.end_headers()
                self.close_connection = True

        return Handler
