//! Node ids of 9, given or implied (drbd-admin 1.8).

use core::cmp::Ordering;

use super::ast::{Config, Host, Resource};

/// The node id of a host. Without any in the file two hosts of a configuration of 9 get them by their
/// addresses; in one of 8.4 there are none.
pub fn of_host(config: &Config, resource: &Resource, host: &Host) -> Option<u8> {
    if host.node_id.is_some() || !config.is_only9() {
        return host.node_id;
    }
    let [one, other] = &resource.hosts[..] else { return None };
    if one.node_id.is_some() || other.node_id.is_some() {
        return None;
    }
    let (first, second) = (one.address.as_ref()?.colon_form(), other.address.as_ref()?.colon_form());
    let first_id = implied_id(&first, &second)?;
    Some(if core::ptr::eq(host, one) { first_id } else { 1 - first_id })
}

/// The id of the first of two addresses in the form of command lines; the other one gets the other of 0 and 1.
/// `None` if the hashes are equal.
fn implied_id(first: &str, second: &str) -> Option<u8> {
    let hash = |text: &str| crc32c(SEED, text.as_bytes()).cast_signed();
    match hash(first).cmp(&hash(second)) {
        Ordering::Greater => Some(0),
        Ordering::Less => Some(1),
        Ordering::Equal => None,
    }
}

const SEED: u32 = 0x1a65_6f21;
/// CRC-32C, highest bit first and without inversion: so the recorded ids demand it.
const POLYNOMIAL: u32 = 0x1edc_6f41;

fn crc32c(seed: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(seed, |crc, byte| {
        (0..8).fold(crc ^ (u32::from(*byte) << 24), |crc, _| {
            (crc << 1) ^ if crc >> 31 == 1 { POLYNOMIAL } else { 0 }
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_those_the_real_tool_gave() {
        for port in [7788, 7789, 7790, 7791, 7820] {
            let [one, other] = [31, 32].map(|last| alloc::format!("ipv4:10.1.1.{last}:{port}"));
            assert_eq!((implied_id(&one, &other), implied_id(&other, &one)), (Some(0), Some(1)), "{port}");
        }
        for port in [7800, 7821] {
            let [one, other] = [31, 32].map(|last| alloc::format!("ipv6:[fd00:1:1::{last}]:{port}"));
            assert_eq!(implied_id(&one, &other), Some(1), "{port}");
        }
        assert_eq!(implied_id("sdp:10.1.1.31:7801", "sdp:10.1.1.32:7801"), Some(0));
        assert_eq!(implied_id("ssocks:10.1.1.31:7802", "ssocks:10.1.1.32:7802"), Some(0));
        assert_eq!(implied_id("same", "same"), None);
    }
}
