use super::*;

#[test]
fn only_link_local_addresses_belong_to_their_interface() {
    let of = |address: &str, interface: &str| Guarded::new(address.parse().unwrap(), interface);
    assert_eq!(of("10.0.0.1", "eth0"), of("10.0.0.1", "eth1"));
    assert_eq!(of("2001:db8::1", "eth0"), of("2001:db8::1", "eth1"));
    assert_ne!(of("fe80::1", "eth0"), of("fe80::1", "eth1"));
    for name in ["", "a\"b", "eth*", "a name", "sixteen-letters-"] {
        assert_eq!(of("fe80::1", name), Guarded { address: "fe80::1".parse().unwrap(), interface: None });
    }
}

#[test]
fn a_key_is_what_the_kernel_compares() {
    let key = |address: &str| Guarded::new(address.parse().unwrap(), "eth0").key();
    assert_eq!(key("10.77.0.100"), [10, 77, 0, 100]);
    assert_eq!(key("2001:db8::64").len(), 16);
    let of_link = key("fe80::2");
    assert_eq!(of_link[..16], *b"eth0\0\0\0\0\0\0\0\0\0\0\0\0");
    assert_eq!(of_link[16..], "fe80::2".parse::<Ipv6Addr>().unwrap().octets());
}
