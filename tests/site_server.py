"""The built site as a host like GitHub Pages serves it: on localhost, text compressed."""

import gzip
import threading
from collections import Counter
from contextlib import contextmanager
from functools import lru_cache
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMPRESSED = {".html", ".js", ".css", ".json", ".svg", ".txt", ".inv", ".map"}


@lru_cache(maxsize=256)
def _compressed(path: Path) -> bytes:
    return gzip.compress(path.read_bytes(), 6)


class _Handler(SimpleHTTPRequestHandler):
    def do_GET(self):
        path = Path(self.translate_path(self.path))
        path = path / "index.html" if path.is_dir() else path
        if path.suffix not in COMPRESSED or not path.is_file():
            if path.is_file():
                self.server.sent[self.path] += path.stat().st_size
            super().do_GET()
            return
        body = _compressed(path)
        self.server.sent[self.path] += len(body)
        self.send_response(200)
        self.send_header("Content-Type", self.guess_type(str(path)))
        self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def end_headers(self):
        self.send_header("Cache-Control", "max-age=600")  # GitHub's
        super().end_headers()

    def log_message(self, *args):
        pass


@contextmanager
def serve(folder: Path):
    """Serve `folder`; yields (address, Counter of the bytes sent by path)."""

    def handler(*args):
        return _Handler(*args, directory=str(folder))

    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.sent = Counter()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", server.sent
    finally:
        server.shutdown()
        server.server_close()
