import socket
import subprocess
import threading
import time

import pytest

from cosyforge.errors import InvalidParameter
from cosyforge.net.allow_list import AllowList
from cosyforge.net.guarded_fetch import FetchLimits, GuardedFetch
from web_server import redirect, response

MAX_BYTES = 100_000
PUBLIC = "93.184.216.34"


class Names:
    """A resolver that answers from a table; a list of lists answers differently each time."""

    def __init__(self, **addresses):
        self.addresses = {name.replace("_", "."): value for name, value in addresses.items()}
        self.asked = []

    def __call__(self, host, port):
        self.asked.append(host)
        found = self.addresses.get(host)
        if found is None:
            raise socket.gaierror(socket.EAI_NONAME, "unknown")
        return found.pop(0) if isinstance(found[0], list) else found


@pytest.fixture
def connected(monkeypatch):
    """Every address that a connection was tried to."""
    tried = []
    real = socket.create_connection
    monkeypatch.setattr(socket, "create_connection", lambda at, **rest: (tried.append(at), real(at, **rest))[1])
    return tried


def _allowed(web, **changes):
    return GuardedFetch(AllowList([web.address, f"files.example:{web.port}"]), **changes)


def test_a_file_of_an_allowed_server_is_fetched(web):
    web.answers["/a.wav?x=1"] = response(b"sound")
    assert _allowed(web).fetch(web.url("/a.wav?x=1"), MAX_BYTES) == b"sound"


def test_nothing_is_told_but_what_is_wanted(web, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    web.answers["/a"] = redirect("/b").replace(b"\r\n\r\n", b"\r\nSet-Cookie: a=b\r\n\r\n")
    web.answers["/b"] = response(b"sound")
    _allowed(web).fetch(web.url("/a"), MAX_BYTES)
    headers = {line.split(":")[0].lower() for line in web.asked[1].split("\r\n")[1:] if line}
    assert headers == {"host", "user-agent", "accept", "accept-encoding", "connection"}
    assert "Accept-Encoding: identity" in web.asked[1]


# ---- where it may not go


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/",
        "http://10.0.0.1/",
        "http://169.254.169.254/latest/meta-data/",
        "http://100.100.100.200/",
        "http://0.0.0.0/",
        "http://[::1]/",
        "http://[::]/",
        "http://[::ffff:127.0.0.1]/",
        "http://[::ffff:7f00:1]/",
        "http://[::127.0.0.1]/",
        "http://[64:ff9b::127.0.0.1]/",
        "http://[2002:7f00:1::]/",
        "http://[fe80::1]/",
        "http://[fd00:ec2::254]/",
        f"http://{PUBLIC}:22/",
        f"http://{PUBLIC}:6379/",
        "http://localhost/",
        "http://loop.example/",
        "http://mixed.example/",
        "http://mapped.example/",
        "http://zone.example/",
    ],
)
def test_nothing_is_connected_to_when_an_address_is_not_allowed(url, connected):
    names = Names(
        localhost=["127.0.0.1", "::1"],
        loop_example=["127.0.0.1"],
        mixed_example=[PUBLIC, "10.0.0.1"],
        mapped_example=["::ffff:127.0.0.1"],
        zone_example=["fe80::1%eth0"],
    )
    with pytest.raises(InvalidParameter) as refused:
        GuardedFetch(resolver=names).fetch(url, MAX_BYTES)
    assert refused.value.message == "address not allowed"
    assert connected == []


def test_the_name_is_resolved_once_and_the_checked_address_is_connected_to(web, connected):
    """A name server that first tells an allowed address and then another one gets nothing from it."""
    web.answers["/a"] = response(b"sound")
    names = Names(files_example=[["127.0.0.1"], ["10.0.0.1"], ["10.0.0.1"]])
    fetch = GuardedFetch(AllowList([web.address]), resolver=names)
    assert fetch.fetch(f"http://files.example:{web.port}/a", MAX_BYTES) == b"sound"
    assert names.asked == ["files.example"]
    assert connected == [("127.0.0.1", web.port)]
    assert f"Host: files.example:{web.port}" in web.asked[0]
    with pytest.raises(InvalidParameter, match="address not allowed"):
        fetch.fetch(f"http://files.example:{web.port}/a", MAX_BYTES)


@pytest.mark.parametrize(
    "location",
    [
        "http://127.0.0.1:{other}/secret",
        "http://localhost:{other}/secret",
        "http://[::1]:{other}/secret",
        "http://2130706433:{other}/secret",
        "//127.0.0.1:{other}/secret",
        "file:///etc/passwd",
        "ftp://127.0.0.1/",
        "http:\\\\127.0.0.1:{other}\\secret",
        "/\\127.0.0.1:{other}/secret",
        "http://user@127.0.0.1:{other}/secret",
    ],
)
def test_a_redirect_is_checked_like_an_address(web, location):
    secret = socket.create_server(("127.0.0.1", 0))
    secret.settimeout(0.2)
    web.answers["/a"] = redirect(location.format(other=secret.getsockname()[1]))
    with pytest.raises(InvalidParameter):
        _allowed(web, resolver=Names(localhost=["127.0.0.1"])).fetch(web.url("/a"), MAX_BYTES)
    with pytest.raises(TimeoutError):
        secret.accept()
    secret.close()


def test_a_redirect_that_rebinds_is_refused(web):
    web.answers["/a"] = redirect(f"http://files.example:{web.port}/b")
    web.answers["/b"] = response(b"secret")
    names = Names(files_example=["10.0.0.1"])
    with pytest.raises(InvalidParameter, match="address not allowed"):
        GuardedFetch(AllowList([web.address]), resolver=names).fetch(web.url("/a"), MAX_BYTES)


def test_three_redirects_are_followed_and_no_more(web):
    for hop in range(5):
        web.answers[f"/{hop}"] = redirect(f"/{hop + 1}")
    web.answers["/5"] = response(b"sound")
    assert _allowed(web).fetch(web.url("/2"), MAX_BYTES) == b"sound"
    with pytest.raises(InvalidParameter, match="more than 3 redirects"):
        _allowed(web).fetch(web.url("/1"), MAX_BYTES)


# ---- what may not come


def _endless(connection):
    connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        connection.sendall(b"x" * 65536)


def _endless_chunks(connection):
    connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        connection.sendall(b"8000\r\n" + b"x" * 0x8000 + b"\r\n")


def _endless_header(connection):
    connection.sendall(b"HTTP/1.1 200 OK\r\n")
    while True:
        connection.sendall(b"X: y\r\n")


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (response(b"x" * (MAX_BYTES + 1)), "larger than"),
        (response(b"x", length=MAX_BYTES + 1), "larger than"),
        (_endless, "larger than"),
        (_endless_chunks, "larger than"),
        (_endless_header, "no proper answer"),
        (response(b"short", length=50), "ends its answer early"),
        (response(b"x", "Content-Encoding: gzip"), "compresses"),
        (response(b"x", status="404 Not Found"), "answers 404"),
        (response(b"x", status="206 Partial Content"), "answers 206"),
        (response(b"", status="302 Found"), "redirects to nowhere"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "no proper answer"),
        (b"", "no proper answer"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "no proper answer"),
    ],
)
def test_answers_that_are_refused(web, answer, reason):
    web.answers["/a"] = answer
    with pytest.raises(InvalidParameter, match=reason):
        _allowed(web).fetch(web.url("/a"), MAX_BYTES)


def test_a_body_longer_than_promised_ends_where_it_was_to_end(web):
    web.answers["/a"] = response(b"sound and more", length=5)
    assert _allowed(web).fetch(web.url("/a"), MAX_BYTES) == b"sound"


def test_a_body_of_exactly_the_limit_passes(web):
    web.answers["/a"] = response(b"x" * MAX_BYTES)
    assert len(_allowed(web).fetch(web.url("/a"), MAX_BYTES)) == MAX_BYTES


@pytest.mark.parametrize("start", [b"", b"HTTP/1.1 200 OK\r\nX: ", b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n"])
def test_a_server_that_drips_runs_out_of_time(web, start):
    def drip(connection):
        connection.sendall(start)
        while not web.is_closing.wait(0.05):
            connection.sendall(b"x")

    web.answers["/a"] = drip
    started = time.monotonic()
    with pytest.raises(InvalidParameter, match="too slow"):
        _allowed(web, limits=FetchLimits(total_s=0.5)).fetch(web.url("/a"), MAX_BYTES)
    assert time.monotonic() - started < 30


def test_redirects_share_one_time_limit(web):
    def slowly(connection):
        web.is_closing.wait(0.3)
        connection.sendall(redirect("/a"))

    web.answers["/a"] = slowly
    with pytest.raises(InvalidParameter, match="too slow"):
        _allowed(web, limits=FetchLimits(total_s=0.5)).fetch(web.url("/a"), MAX_BYTES)


def test_a_name_server_that_is_silent_runs_out_of_time():
    silent = threading.Event()
    fetch = GuardedFetch(limits=FetchLimits(total_s=0.2), resolver=lambda host, port: [PUBLIC] * silent.wait(60))
    with pytest.raises(InvalidParameter, match="could not be looked up in time"):
        fetch.fetch("http://slow.example/", MAX_BYTES)
    silent.set()


def test_an_unknown_name_and_a_closed_port_are_told_without_details(web):
    with pytest.raises(InvalidParameter) as unknown:
        GuardedFetch(resolver=Names()).fetch("http://nowhere.example/", MAX_BYTES)
    assert unknown.value.message == "the host is not known"
    port = socket.create_server(("127.0.0.1", 0)).getsockname()[1]
    with pytest.raises(InvalidParameter) as closed:
        GuardedFetch(AllowList([f"127.0.0.1:{port}"])).fetch(f"http://127.0.0.1:{port}/", MAX_BYTES)
    assert closed.value.message == "the server cannot be reached or gives no proper answer"


# ---- TLS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A certificate for files.example that signs itself; made by the openssl command."""
    directory = tmp_path_factory.mktemp("tls")
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=files.example"]
    command += ["-addext", "subjectAltName=DNS:files.example", "-keyout", "key.pem", "-out", "cert.pem"]
    subprocess.run(command, cwd=directory, check=True, capture_output=True)
    return directory


def _tls(certificate, answer, *, trusted=True):
    import ssl

    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
    client = ssl.create_default_context(cafile=str(certificate / "cert.pem") if trusted else None)

    def handle(connection):
        with server.wrap_socket(connection, server_side=True) as secure:
            while b"\r\n\r\n" not in secure.recv(4096):
                pass
            secure.sendall(answer)

    listener = socket.create_server(("127.0.0.1", 0))

    def serve():
        connection, _ = listener.accept()
        try:
            handle(connection)
        except OSError:
            connection.close()  # the client refused the certificate

    threading.Thread(target=serve, daemon=True).start()
    return client, listener.getsockname()[1]


def _secure_fetch(client, port, host):
    names = Names(files_example=["127.0.0.1"], other_example=["127.0.0.1"])
    fetch = GuardedFetch(AllowList([f"127.0.0.1:{port}"]), resolver=names, tls=client)
    return fetch.fetch(f"https://{host}:{port}/a", MAX_BYTES)


def test_the_certificate_is_checked_for_the_name_not_the_address(certificate):
    assert _secure_fetch(*_tls(certificate, response(b"sound")), "files.example") == b"sound"


@pytest.mark.parametrize(("host", "trusted"), [("other.example", True), ("127.0.0.1", True), ("files.example", False)])
def test_a_wrong_or_unknown_certificate_is_refused(certificate, host, trusted):
    with pytest.raises(InvalidParameter, match="certificate"):
        _secure_fetch(*_tls(certificate, response(b"sound"), trusted=trusted), host)


def test_there_is_no_way_back_from_https_to_http(certificate):
    with pytest.raises(InvalidParameter, match="from https to http"):
        _secure_fetch(*_tls(certificate, redirect("http://files.example/")), "files.example")
