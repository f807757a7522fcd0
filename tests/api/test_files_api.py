import hashlib
import socket
import time
from urllib.parse import urlsplit

import httpx
import pytest

from cosyforge.store.artifacts import SignedLinks
from fakes import KEY, LiveServer, assert_error, wait_for


def _upload(server, *files, **fields):
    parts = [("files", (name, contents)) for name, contents in files]
    return server.client.post("/api/v1/files", files=parts, data=fields)


def _stored(server):
    return {path for path in (server.data_dir / "artifacts").rglob("*") if path.is_file()}


def test_an_upload_can_be_seen_fetched_and_deleted(live_server):
    contents = b"PK\x03\x04" + bytes(range(256)) * 5000
    uploaded = _upload(live_server, ("train_data.zip", contents), purpose="fine-tune", descriptions="narrator A")
    assert set(uploaded.json()) == {"request_id", "data"}
    assert uploaded.json()["data"]["failed_uploads"] == []
    (entry,) = uploaded.json()["data"]["uploaded_files"]
    assert entry["name"] == "train_data.zip"
    url = f"/api/v1/files/{entry['file_id']}"
    file = live_server.client.get(url).json()["data"]
    assert (file["size"], file["md5"]) == (len(contents), hashlib.md5(contents).hexdigest())
    assert (file["description"], file["purpose"]) == ("narrator A", "fine-tune")
    time.strptime(file["gmt_create"], "%Y-%m-%d %H:%M:%S")
    assert httpx.get(file["url"]).content == contents, "the link needs no key"
    assert set(live_server.client.delete(url).json()) == {"request_id"}
    assert_error(live_server.client.get(url), 400, "InvalidParameter", "File not found.")
    assert_error(live_server.client.delete(url), 400, "InvalidParameter", "File not found.")
    assert httpx.get(file["url"]).status_code == 404


def test_a_link_serves_ranges(live_server):
    _upload(live_server, ("a.zip", b"0123456789"))
    url = live_server.client.get("/api/v1/files").json()["data"]["files"][0]["url"]
    answer = httpx.get(url, headers={"Range": "bytes=2-4"})
    assert (answer.status_code, answer.content, answer.headers["content-range"]) == (206, b"234", "bytes 2-4/10")


def test_a_changed_or_old_link_is_refused(live_server):
    _upload(live_server, ("a.zip", b"0123456789"))
    url = live_server.client.get("/api/v1/files").json()["data"]["files"][0]["url"]
    assert_error(httpx.get(url[:-3]), 403, "AccessDenied", "signature")
    assert_error(httpx.get(url.partition("?")[0]), 403, "AccessDenied")


def test_a_link_expires(live_server):
    _upload(live_server, ("a.zip", b"0123456789"))
    url = live_server.client.get("/api/v1/files").json()["data"]["files"][0]["url"]
    key = url.partition("/artifacts/")[2].partition("?")[0]
    links = SignedLinks((live_server.data_dir / "secret").read_bytes())
    for expires_at, status in [(int(time.time()) + 60, 200), (int(time.time()) - 1, 403)]:
        assert httpx.get(live_server.url + links.sign(key, expires_at)).status_code == status


def test_the_purpose_need_not_be_told(live_server):
    """The official SDK never sends it, nor a type for the file."""
    file_id = _upload(live_server, ("a.zip", b"x")).json()["data"]["uploaded_files"][0]["file_id"]
    assert live_server.client.get(f"/api/v1/files/{file_id}").json()["data"]["purpose"] == "fine-tune"


def test_several_files_have_their_descriptions_in_order(live_server):
    parts = [("files", ("a.zip", b"a")), ("files", ("b.zip", b"b"))]
    answer = live_server.client.post("/api/v1/files", files=parts, data={"descriptions": ["first", "second"]})
    assert [file["name"] for file in answer.json()["data"]["uploaded_files"]] == ["a.zip", "b.zip"]
    files = live_server.client.get("/api/v1/files?page_size=2").json()["data"]["files"]
    assert [(file["name"], file["description"]) for file in files] == [("b.zip", "second"), ("a.zip", "first")]


def test_a_file_that_is_too_large_is_told_apart_and_leaves_nothing(tmp_path):
    server = LiveServer(tmp_path, max_upload_bytes=1000).start()
    try:
        data = _upload(server, ("big.zip", b"x" * 1001), ("small.zip", b"x" * 1000)).json()["data"]
        assert [file["name"] for file in data["uploaded_files"]] == ["small.zip"]
        assert [(file["name"], file["code"]) for file in data["failed_uploads"]] == [("big.zip", "BadRequest.TooLarge")]
        assert len(_stored(server)) == 1
    finally:
        server.stop()


def test_only_the_last_part_of_a_file_name_counts(live_server):
    names = _upload(live_server, ("../../etc/a.zip", b"x"), ("C:\\data\\b.zip", b"x")).json()["data"]["uploaded_files"]
    assert [file["name"] for file in names] == ["a.zip", "b.zip"]


@pytest.mark.parametrize(
    ("content_type", "body", "part"),
    [
        ("application/json", b"{}", "multipart"),
        ("multipart/form-data", b"", "boundary"),
        ("multipart/form-data; boundary=x", b"rubbish", "multipart"),
        ("multipart/form-data; boundary=x", b'--x\r\nContent-Disposition: form-data; name="files"; filename="a"\r\n\r\n1', "broke off"),
        ("multipart/form-data; boundary=x", b'--x\r\nContent-Disposition: form-data; name="purpose"\r\n\r\na\r\n--x--\r\n', "named files"),
    ],
)  # fmt: skip
def test_a_malformed_upload_is_refused_and_leaves_nothing(live_server, content_type, body, part):
    before = _stored(live_server)
    answer = live_server.client.post("/api/v1/files", content=body, headers={"Content-Type": content_type})
    assert_error(answer, 400, "InvalidParameter", part)
    assert _stored(live_server) == before


def test_an_upload_that_breaks_off_leaves_nothing(live_server):
    before = _stored(live_server)
    address = urlsplit(live_server.url)
    connection = socket.create_connection((address.hostname, address.port))
    head = (
        f"POST /api/v1/files HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\nContent-Length: 99999999\r\n"
        "Content-Type: multipart/form-data; boundary=x\r\n\r\n"
        '--x\r\nContent-Disposition: form-data; name="files"; filename="a.zip"\r\n\r\n'
    )
    connection.sendall(head.encode() + b"x" * (3 << 20))
    wait_for(lambda: _stored(live_server) != before, 30, "the upload to arrive in part")
    connection.close()
    wait_for(lambda: _stored(live_server) == before, 30, "what arrived to be removed")
    assert live_server.client.get("/api/v1/files").status_code == 200
