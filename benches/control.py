"""The control interface of a node, on the socket in its data directory."""
import http.client, json, os, socket


class Local(http.client.HTTPConnection):
    def __init__(self, folder, seconds):
        super().__init__("localhost", timeout=seconds)
        self.folder = folder

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        # The path of the socket may be longer than a socket's address.
        folder = os.open(self.folder, os.O_PATH)
        try:
            self.sock.connect(f"/proc/self/fd/{folder}/control.sock")
        finally:
            os.close(folder)


def ask(folder, method, path, body, seconds):
    """Status and answer of the node with that data directory; none if it was cut off, or took too long."""
    connection = Local(folder, seconds)
    try:
        connection.request(method, path, json.dumps(body) if body else None, {"Content-Type": "application/json"})
        response = connection.getresponse()
        return response.status, json.loads(response.read().splitlines()[-1])
    except (OSError, http.client.HTTPException, ValueError, IndexError):
        return None, None
    finally:
        connection.close()
