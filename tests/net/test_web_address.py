import ipaddress

import pytest

from cosyforge.errors import InvalidParameter
from cosyforge.net.allow_list import AllowList, is_public
from cosyforge.net.web_address import parse_web_address


@pytest.mark.parametrize(
    ("written", "host", "port", "target"),
    [
        ("http://example.org", "example.org", 80, "/"),
        ("HTTPS://Example.ORG/a/b?c=d&e#f", "example.org", 443, "/a/b?c=d&e"),
        ("https://example.org:8443?x", "example.org", 8443, "/?x"),
        ("http://93.184.216.34/a", "93.184.216.34", 80, "/a"),
        ("http://[2606:2800:220:1::1]/a", "2606:2800:220:1::1", 80, "/a"),
        ("https://a.example/音 乐.wav".replace(" ", "%20"), "a.example", 443, "/%E9%9F%B3%20%E4%B9%90.wav"),
        ("http://xn--fiq228c.example/", "xn--fiq228c.example", 80, "/"),
        ("http://a_b.example/%2e%2e/x", "a_b.example", 80, "/%2e%2e/x"),
    ],
)
def test_plain_addresses_are_read(written, host, port, target):
    address = parse_web_address(written)
    assert (address.host, address.port, address.target) == (host, port, target)


ODD = [
    # decimal, octal, hexadecimal, short and padded forms of 127.0.0.1
    "http://2130706433/",
    "http://017700000001/",
    "http://0x7f000001/",
    "http://0x7f.0.0.1/",
    "http://127.0x1/",
    "http://0177.0.0.1/",
    "http://127.1/",
    "http://127.0.1/",
    "http://127.000.000.001/",
    "http://127.0.0.256/",
    "http://1.2.3.4.5/",
    "http://example.0x7f/",
    # dots, also those that are none
    "http://127.0.0.1./",
    "http://localhost./",
    "http://example..org/",
    "http://.example.org/",
    "http://127。0。0。1/",
    "http://127．0．0．1/",
    # letters and digits that become others
    "http://ⓛocalhost/",
    "http://１２７.0.0.1/",
    "http://ﬀ.example/",
    "http://exam\u00adple.org/",
    # brackets and zones
    "http://[::1%25lo]/",
    "http://[fe80::1%eth0]/",
    "http://[::1/",
    "http://::1/",
    "http://[127.0.0.1]/",
    "http://[v1.a]/",
    "http://[]/",
    # who is the host
    "http://example.org@127.0.0.1/",
    "http://example.org:80@127.0.0.1/",
    "http://user:password@example.org/",
    "http://example.org\\@127.0.0.1/",
    "http://127.0.0.1\\.example.org/",
    "http:\\\\127.0.0.1/",
    "\\\\127.0.0.1\\share",
    "http://example.org%2f@127.0.0.1/",
    "http://%31%32%37.0.0.1/",
    "http:///example.org/",
    "http:/127.0.0.1/",
    "http:127.0.0.1",
    "//127.0.0.1/",
    "http://",
    "http://?x",
    # other schemes
    "file:///etc/passwd",
    "file://127.0.0.1/etc/passwd",
    "ftp://example.org/a.wav",
    "gopher://127.0.0.1:6379/_x",
    "data:audio/wav;base64,UklGRg==",
    "jar:http://example.org!/a",
    "dict://127.0.0.1:11211/",
    "ldap://127.0.0.1/",
    "javascript:alert(1)",
    # ports
    "http://example.org:0/",
    "http://example.org:65536/",
    "http://example.org:99999999/",
    "http://example.org:8 0/",
    "http://example.org:+80/",
    "http://example.org:８０/",
    "http://example.org:/",
    # what would end the request line or a header
    "http://example.org/\r\nHost: 127.0.0.1",
    "http://example.org\r\n/",
    "http://example.org/a b",
    "http://example.org/\ta",
    "http://example.org/\x00",
    " http://example.org/",
    "http://example.org/\x7f",
    "http://example.org/\u2028",
    "http://example.org/\ud800",
    "http://-example.org/",
    "http://" + "a" * 64 + ".example/",
    "http://example.org/" + "a" * 2048,
]


@pytest.mark.parametrize("written", ODD)
def test_odd_addresses_are_refused(written):
    with pytest.raises(InvalidParameter):
        parse_web_address(written)


NOT_PUBLIC = [
    "0.0.0.0", "0.1.2.3", "10.0.0.1", "100.64.0.1", "100.127.255.255", "127.0.0.1", "127.255.255.254", "169.254.169.254",
    "172.16.0.1", "172.31.255.255", "192.0.0.1", "192.0.2.1", "192.88.99.1", "192.168.1.1", "198.18.0.1", "198.19.255.1",
    "198.51.100.1", "203.0.113.1", "224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.255",
    "::", "::1", "::ffff:127.0.0.1", "::ffff:8.8.8.8", "::127.0.0.1", "::8.8.8.8", "64:ff9b::7f00:1", "64:ff9b:1::1",
    "100::1", "fc00::1", "fd12:3456::1", "fe80::1", "fec0::1", "ff02::1", "2001::1", "2001:db8::1", "2002:7f00:1::1",
    "3fff::1", "5f00::1", "2001:10::1", "2001:20::1",
]  # fmt: skip


@pytest.mark.parametrize("written", NOT_PUBLIC)
def test_addresses_that_are_not_of_the_public_internet(written):
    ip = ipaddress.ip_address(written)
    assert not is_public(ip)
    assert not AllowList().permits("example.org", ip, 80)


@pytest.mark.parametrize(
    "written", ["8.8.8.8", "100.63.255.255", "100.128.0.1", "172.32.0.1", "2606:4700::1111", "2a00::1"]
)
def test_public_addresses(written):
    assert is_public(ipaddress.ip_address(written))


@pytest.mark.parametrize(
    ("entries", "host", "ip", "port", "permitted"),
    [
        ([], "a.example", "8.8.8.8", 443, True),
        ([], "a.example", "8.8.8.8", 8080, False),
        (["10.0.0.0/8"], "a.example", "10.1.2.3", 80, True),
        (["10.0.0.0/8"], "a.example", "10.1.2.3", 8080, False),
        (["10.0.0.0/8:8080"], "a.example", "10.1.2.3", 8080, True),
        (["10.0.0.0/8:8080"], "a.example", "10.1.2.3", 80, False),
        (["10.1.2.3"], "a.example", "10.1.2.4", 80, False),
        (["files.internal"], "files.internal", "10.1.2.3", 80, True),
        (["files.internal"], "other.internal", "10.1.2.3", 80, False),
        (["Files.Internal:9000"], "files.internal", "10.1.2.3", 9000, True),
        (["[fd00::]/8"], "a.example", "fd00::5", 443, True),
        (["[fd00::1]:8080"], "a.example", "fd00::1", 8080, True),
        (["0.0.0.0/0"], "a.example", "::1", 80, False),
        (["a.example:8080"], "a.example", "8.8.8.8", 8080, True),
    ],
)
def test_the_allow_list_adds_hosts_networks_and_ports(entries, host, ip, port, permitted):
    assert AllowList(entries).permits(host, ipaddress.ip_address(ip), port) is permitted


@pytest.mark.parametrize("entry", ["", "10.0.0.0/33", "10.0.0.1/8", "http://a.example", "a b", "host:99999", "[::1"])
def test_a_wrong_entry_is_named(entry):
    with pytest.raises(InvalidParameter, match="fetch_allow"):
        AllowList([entry])
