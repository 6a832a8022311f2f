"""Classes of addresses, grants, and the judgement of an answer."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fazt.core.addresses import AddressClass, classify, expand_listeners, judge, parse_grant
from fazt.errors import ConfigError, FaztError, Reason

PUBLIC = "93.184.216.34"


def refusal(addresses: list[str], **kwargs: object) -> FaztError:
    with pytest.raises(FaztError) as caught:
        judge(addresses, **{"port": 443, **kwargs})  # type: ignore[arg-type]
    return caught.value


@pytest.mark.parametrize(
    ("address", "klass"),
    [
        ("8.8.8.8", "public"),
        ("2606:4700::1111", "public"),
        ("::ffff:8.8.8.8", "public"),
        ("64:ff9b::808:808", "public"),
        ("10.1.2.3", "private"),
        ("fd12::1", "private"),
        ("100.64.0.1", "shared"),
        ("127.0.0.53", "loopback"),
        ("::1", "loopback"),
        ("::ffff:127.0.0.1", "loopback"),
        ("64:ff9b::7f00:1", "loopback"),
        ("169.254.1.1", "link_local"),
        ("fe80::1", "link_local"),
        ("fe80::1%eth0", "link_local"),
        ("fec0::1", "site_local"),
        ("169.254.169.254", "metadata"),
        ("::ffff:169.254.169.254", "metadata"),
        ("64:ff9b::a9fe:a9fe", "metadata"),
        ("168.63.129.16", "metadata"),
        ("100.100.100.200", "metadata"),
        ("192.0.0.192", "metadata"),
        ("fd00:ec2::254", "metadata"),
        ("0.0.0.0", "unspecified"),
        ("0.1.2.3", "unspecified"),
        ("::", "unspecified"),
        ("::ffff:0.0.0.0", "unspecified"),
        ("255.255.255.255", "broadcast"),
        ("224.0.0.1", "multicast"),
        ("ff02::1", "multicast"),
        ("192.0.2.1", "documentation"),
        ("2001:db8::1", "documentation"),
        ("3fff::1", "documentation"),
        ("198.18.0.1", "benchmarking"),
        ("192.0.0.9", "protocol"),
        ("192.88.99.1", "transition"),
        ("::127.0.0.1", "transition"),
        ("2001::1", "transition"),
        ("2002:808:808::1", "transition"),
        ("64:ff9b:1::808:808", "transition"),
        ("100::1", "discard"),
        ("240.0.0.1", "reserved"),
        ("4000::1", "reserved"),
        ("2606:4700::1111%eth0", "scoped"),
        ("fd12::1%3", "scoped"),
        ("::1%lo", "scoped"),
        ("::ffff:127.0.0.1%lo", "scoped"),
        ("localhost", "invalid"),
        ("127.1", "invalid"),
        ("0177.0.0.1", "invalid"),
        ("", "invalid"),
        ("1.2.3.4 ", "invalid"),
        ("１.2.3.4", "invalid"),
        ("\ud800", "invalid"),
    ],
)
def test_classes(address: str, klass: str) -> None:
    verdict = classify(address)
    assert verdict.klass == klass
    assert verdict.public == (klass == "public")
    assert verdict.grantable == (klass in {"private", "shared", "loopback"})
    assert verdict.source


@pytest.mark.parametrize(
    "address",
    [
        *[
            "::",
            "64:ff9b::7f00:1",
            "2002:7f00:1::",
            "::127.0.0.1",
            "198.18.0.1",
            "192.0.0.1",
            "192.0.2.1",
            "198.51.100.1",
        ],
        *["203.0.113.1", "224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255", "fec0::1", "192.88.99.1"],
        *["64:ff9b:1::1", "100::1", "2001::1", "2001:db8::1", "ff02::1", "0.0.0.0"],
    ],
)
def test_F12_special_ranges_are_refused(address: str) -> None:
    error = refusal([address])
    assert error.reason is Reason.PRIVATE_ADDRESS
    assert error.address_class == classify(address).klass.value
    assert error.address_class != "public"


@given(st.text(st.characters(codec=None), max_size=50))
def test_any_text_has_a_verdict(text: str) -> None:
    verdict = classify(text)
    assert not (verdict.public and verdict.grantable)


@given(st.ip_addresses(v=4))
def test_an_embedded_address_is_judged_like_itself(address: ipaddress.IPv4Address) -> None:
    plain = classify(address)
    for prefix in ("::ffff:0:0", "64:ff9b::"):
        inside = classify(ipaddress.IPv6Address(int(ipaddress.IPv6Address(prefix)) | int(address)))
        assert (inside.klass, inside.public, inside.grantable) == (plain.klass, plain.public, plain.grantable)


@given(st.ip_addresses(v=6))
def test_public_ipv6_is_global_unicast(address: ipaddress.IPv6Address) -> None:
    if classify(address).public and not classify(address).source.startswith(("IPv4-mapped", "NAT64")):
        assert address in ipaddress.IPv6Network("2000::/3")


# --- grants ---


@pytest.mark.parametrize(
    ("cidr", "canonical"),
    [
        ("127.0.0.1/32", "127.0.0.1/32"),
        ("127.0.0.1", "127.0.0.1/32"),
        ("10.0.0.0/8", "10.0.0.0/8"),
        ("10.1.0.0/16", "10.1.0.0/16"),
        ("192.168.0.0/16", "192.168.0.0/16"),
        ("100.64.0.0/10", "100.64.0.0/10"),
        ("fc00::/7", "fc00::/7"),
        ("FD00:0:0::/8", "fd00::/8"),
        ("::1", "::1/128"),
        ("::ffff:127.0.0.1", "127.0.0.1/32"),
        ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
        ("93.184.216.34/32", "93.184.216.34/32"),
        ("2606:4700::/32", "2606:4700::/32"),
    ],
)
def test_grants_take_their_canonical_form(cidr: str, canonical: str) -> None:
    assert parse_grant(cidr) == canonical
    assert parse_grant(canonical) == canonical


@pytest.mark.parametrize(
    "cidr",
    [
        # never grantable, alone or as a part
        *["169.254.0.0/16", "169.254.169.254", "169.254.169.254/32", "169.0.0.0/8", "168.63.129.16", "168.63.129.0/24"],
        *["100.100.100.200/32", "192.0.0.192", "fd00:ec2::254", "fd00:ec2::254/128", "::ffff:169.254.169.254"],
        *["fe80::/10", "fe80::1", "0.0.0.0", "0.0.0.0/8", "::", "255.255.255.255", "224.0.0.0/4", "ff00::/8"],
        *["0.0.0.0/0", "::/0", "0.0.0.0/1", "128.0.0.0/1", "::ffff:0:0/96", "::/96", "8.0.0.0/6", "10.0.0.0/7"],
        *["f000::/4", "c000::/2", "2000::/3", "::/127"],
        # neither private nor loopback nor public
        *[
            "192.0.2.0/24",
            "198.18.0.0/15",
            "240.0.0.0/4",
            "64:ff9b::a00:0/104",
            "2002::/16",
            "2001:db8::/32",
            "4000::/3",
        ],
        # no network
        *[
            "",
            "localhost",
            "10.0.0.0/",
            "10.0.0.0/33",
            "10/8",
            "10.0.0.0/255.0.0.0",
            "10.0.0.0/0.255.255.255",
            "fd00::/129",
        ],
        *[
            "127.0.0.1/8",
            "10.1.2.3/16",
            "fe80::1%eth0",
            "fd00::1%eth0/128",
            " 10.0.0.0/8",
            "10.0.0.0/８",
            "010.0.0.0/8",
        ],
        *["10.0.0.0-10.0.0.9", "10.0.0.0/8,192.168.0.0/16", "1" * 5000, "\ud800"],
    ],
)
def test_what_no_rule_can_be_granted(cidr: str) -> None:
    with pytest.raises(ConfigError):
        parse_grant(cidr)


@given(st.one_of(st.text(max_size=40), st.builds("{}/{}".format, st.ip_addresses(), st.integers(0, 130))))
def test_a_grant_is_canonical_or_a_config_error(text: str) -> None:
    try:
        granted = parse_grant(text)
    except ConfigError:
        return
    network = ipaddress.ip_network(granted)
    assert parse_grant(granted) == granted
    for edge in (network.network_address, network.broadcast_address):
        assert classify(edge).public or classify(edge).grantable


def test_host_bits_are_explained() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_grant("127.0.0.1/8")
    assert "127.0.0.0/8" in (caught.value.hint or "")


# --- judging an answer ---


def test_public_answers_pass_and_one_bad_address_refuses_them_all() -> None:
    judge([PUBLIC, "2606:4700::1111"], port=443)
    error = refusal([PUBLIC, "2606:4700::1111", "10.0.0.7"])
    assert (error.reason, error.address_class) == (Reason.PRIVATE_ADDRESS, "private")


def test_the_caller_sees_no_address_and_the_operator_does() -> None:
    error = refusal(["10.0.0.7"])
    assert "10.0.0.7" not in str(error)
    assert "10.0.0.7" not in repr(error)
    assert "10.0.0.7" in (error.detail or "")
    assert "RFC1918" in (error.detail or "")


def test_an_empty_answer_is_no_permission() -> None:
    assert refusal([]).reason is Reason.DNS_FAILED


def test_a_grant_takes_answers_that_are_public_or_inside() -> None:
    judge(["10.1.2.3", PUBLIC], port=443, grant=("10.1.0.0/16",))
    judge(["::ffff:127.0.0.1", "127.0.0.1", "64:ff9b::7f00:1"], port=443, grant=("127.0.0.1/32",))
    judge(["::1", "10.1.2.3"], port=443, grant=("10.1.0.0/16", "::1/128"))
    assert refusal(["10.1.2.3", "10.2.0.1"], grant=("10.1.0.0/16",)).reason is Reason.PRIVATE_ADDRESS
    assert refusal(["::1"], grant=("127.0.0.0/8",)).address_class == "loopback"
    assert refusal(["fd00::1%eth0"], grant=("fc00::/7",)).address_class == "scoped"


@pytest.mark.parametrize(
    ("address", "grant"),
    [
        ("100.100.100.200", "100.64.0.0/10"),
        ("fd00:ec2::254", "fc00::/7"),
        ("::ffff:100.100.100.200", "100.64.0.0/10"),
        # ranges that parse_grant refuses, as a tampered store would hold them
        ("169.254.169.254", "169.254.0.0/16"),
        ("169.254.169.254", "0.0.0.0/0"),
        ("10.0.0.1", "0.0.0.0/0"),
        ("0.0.0.0", "0.0.0.0/8"),
        ("::", "::/0"),
        ("fe80::1", "fe80::/10"),
        ("10.0.0.1", "rubbish"),
    ],
)
def test_what_no_grant_opens(address: str, grant: str) -> None:
    assert refusal([address], grant=(grant,)).reason is Reason.PRIVATE_ADDRESS


def test_own_listeners_are_refused_under_any_grant() -> None:
    own = expand_listeners([("127.0.0.1", 8080)], ["127.0.0.1", "::1", "10.0.0.5"])
    for address in ("127.0.0.1", "::ffff:127.0.0.1", "64:ff9b::7f00:1"):
        assert refusal([address], port=8080, grant=("127.0.0.0/8",), own=own).reason is Reason.OWN_LISTENER
    judge(["127.0.0.1"], port=8081, grant=("127.0.0.0/8",), own=own)
    judge(["10.0.0.5"], port=8080, grant=("10.0.0.0/8",), own=own)
    judge(["127.0.0.2"], port=8080, grant=("127.0.0.0/8",), own=own)


def test_a_public_address_of_fazt_itself_is_its_listener_too() -> None:
    own = expand_listeners([("0.0.0.0", 8080)], [PUBLIC])
    assert refusal([PUBLIC], port=8080, own=own).reason is Reason.OWN_LISTENER
    judge([PUBLIC], port=443, own=own)


@pytest.mark.parametrize("wildcard", ["0.0.0.0", "::", "", "::ffff:0.0.0.0"])
def test_wildcard_binds_cover_every_interface(wildcard: str) -> None:
    own = expand_listeners([(wildcard, 80)], ["127.0.0.1", "10.0.0.5", "FD00::5", "fe80::1%eth0"])
    grant = ("127.0.0.0/8", "10.0.0.0/8", "::1/128", "fc00::/7")
    # All of 127.0.0.0/8 is this machine, though its interface has one address.
    for address in ("127.0.0.1", "127.9.9.9", "10.0.0.5", "::ffff:10.0.0.5", "0.0.0.0"):
        assert refusal([address], port=80, grant=grant, own=own).reason is Reason.OWN_LISTENER
    judge(["10.0.0.6", "fd00::6"], port=80, grant=grant, own=own)
    if wildcard in ("::", ""):
        for address in ("::1", "fd00::5", "fd00:0::5", "::", "fe80::1%eth0"):
            assert refusal([address], port=80, grant=grant, own=own).reason is Reason.OWN_LISTENER
    else:
        judge(["fd00::5", "::1"], port=80, grant=grant, own=own)


def test_wildcard_binds_cover_what_interfaces_are_given_later() -> None:
    late = {PUBLIC, "10.0.0.9", "fd00::9"}
    grant = ("10.0.0.0/8", "fc00::/7", parse_grant(PUBLIC))
    for address in late:
        own = expand_listeners([("::", 80)], ["127.0.0.1"])
        assert refusal([address], port=80, grant=grant, own=own, local=late).reason is Reason.OWN_LISTENER
        judge([address], port=81, grant=grant, own=own, local=late)
    judge(["fd00::9"], port=80, grant=grant, own=expand_listeners([("0.0.0.0", 80)], []), local=late)
    judge(["10.0.0.9"], port=80, grant=grant, own=expand_listeners([("10.0.0.8", 80)], []), local=late)


def test_listeners_by_name() -> None:
    assert expand_listeners([("localhost", 80)], []) == {("127.0.0.1", 80), ("::1", 80)}
    with pytest.raises(ConfigError):
        expand_listeners([("example.com", 80)], [])


def test_public_interface_addresses_of_this_machine_need_a_grant() -> None:
    error = refusal([PUBLIC], local={PUBLIC, "10.0.0.5"})
    assert (error.reason, error.address_class) == (Reason.PRIVATE_ADDRESS, AddressClass.OWN_INTERFACE)
    assert refusal([f"::ffff:{PUBLIC}"], local={PUBLIC}).address_class == "own_interface"
    judge([PUBLIC], port=443, local={PUBLIC}, grant=(parse_grant(PUBLIC),))
    judge(["93.184.216.35"], port=443, local={PUBLIC})
