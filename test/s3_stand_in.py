"""A server that answers as S3 does, to what TensorFlow's client asks: objects are in its memory.

It listens on the loopback address, checks no signatures, and lists all keys at once. moto's server,
with which TensorFlow 1.15 asked the same, would need twenty packages.
"""

import email.utils
import http.server
import re
import threading
import urllib.parse
from typing import Dict
from xml.sax.saxutils import escape

_LIST = "<Prefix>{}</Prefix><IsTruncated>false</IsTruncated>{}{}"
_CONTENTS = "<Contents><Key>{}</Key><LastModified>2020-01-01T00:00:00Z</LastModified></Contents>"
_FOLDER = "<CommonPrefixes><Prefix>{}</Prefix></CommonPrefixes>"


class S3:
    """The server; within the block it answers.

    Attributes:
        objects: {key: bytes} of the only bucket, `bucket`.
        environment: variables with which TensorFlow asks this server.
    """

    def __enter__(self):
        self.objects: Dict[str, bytes] = {}
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._server.objects, self._server.times = self.objects, {}
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()
        self.environment = {
            "S3_ENDPOINT": f"127.0.0.1:{self._server.server_address[1]}",
            "S3_USE_HTTPS": "0",
            "S3_VERIFY_SSL": "0",
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "unchecked",
            "AWS_SECRET_ACCESS_KEY": "unchecked",
        }
        return self

    def __exit__(self, *error):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # It would hold each answer back for 40 ms.

    def _key(self) -> str:
        """What is asked for in the bucket; TensorFlow puts a slash before keys, or does not."""
        path = urllib.parse.unquote(self.path.split("?")[0])
        return path[len("/bucket") :].lstrip("/")

    def _query(self) -> Dict[str, str]:
        return dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(self.path).query))

    def _reply(self, status: int, body: bytes = b"", key: str = "", length: int = -1):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) if length < 0 else length))
        self.send_header("ETag", '"unchecked"')
        if key:
            time = self.server.times.get(key, 0)
            self.send_header("Last-Modified", email.utils.formatdate(time, usegmt=True))
        self.end_headers()
        self.wfile.write(body)

    def _reply_xml(self, status: int, name: str, contents: str):
        self._reply(status, f"<{name}>{contents}</{name}>".encode())

    def do_PUT(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        source = self.headers.get("x-amz-copy-source")
        if source:
            source = urllib.parse.unquote(source).lstrip("/")[len("bucket") :].lstrip("/")
            body = self.server.objects[source]
        self.server.objects[self._key()] = body
        self.server.times[self._key()] = len(self.server.times)
        if source:
            self._reply_xml(200, "CopyObjectResult", '<ETag>"unchecked"</ETag>')
        else:
            self._reply(200)

    def do_HEAD(self):
        if self._key() and self._key() not in self.server.objects:
            self._reply(404)
        else:
            length = len(self.server.objects.get(self._key(), b""))
            self._reply(200, key=self._key(), length=length)

    def do_GET(self):
        if not self._key():
            self._list(**self._query())
            return
        data = self.server.objects.get(self._key())
        if data is None:
            self._reply_xml(404, "Error", "<Code>NoSuchKey</Code>")
            return
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if not asked:
            self._reply(200, data, self._key())
        elif int(asked.group(1)) >= len(data):
            self._reply_xml(416, "Error", "<Code>InvalidRange</Code>")
        else:
            self._reply(206, data[int(asked.group(1)) : int(asked.group(2)) + 1], self._key())

    def _list(self, prefix: str = "", delimiter: str = "", **_):
        slash = "/" if prefix.startswith("/") else ""
        keys = [key for key in sorted(self.server.objects) if (slash + key).startswith(prefix)]
        ends = [(slash + key)[len(prefix) :] for key in keys]
        folders = {end.split("/")[0] for end in ends if delimiter and "/" in end}
        files = [end for end in ends if not (delimiter and "/" in end)]
        self._reply_xml(
            200,
            "ListBucketResult",
            _LIST.format(
                escape(prefix),
                "".join(_CONTENTS.format(escape(prefix + end)) for end in files),
                "".join(_FOLDER.format(escape(f"{prefix}{folder}/")) for folder in sorted(folders)),
            ),
        )

    def do_DELETE(self):
        self.server.objects.pop(self._key(), None)
        self._reply(204)

    def log_message(self, format, *arguments):
        """Says nothing."""
