//! DHCP messages: what a client sent, and what it is answered. No socket, no clock.
//!
//! There is one client, one address and one link, so there is nothing to remember: every answer
//! follows from the request and the [`Offer`] alone, and a server that was restarted answers as the
//! one before it did.
//!
//! ```text
//! DISCOVER -> OFFER      REQUEST for our address -> ACK      INFORM  -> ACK without a lease
//!                        REQUEST for another     -> NAK      DECLINE, RELEASE, anything else -> silence
//! ```
//!
//! Source: RFC 2131 section 4.3 (server behaviour), RFC 2132 (options), RFC 6842 (client identifier).

use std::net::{Ipv4Addr, SocketAddrV4};

use firewall::nft::MacAddress;

/// The port that clients listen on.
const CLIENT_PORT: u16 = 68;
/// The fixed part of a message, up to and including the magic cookie that starts the options.
const FIXED_BYTES: usize = 240;
/// The least that a message may measure; some clients drop shorter ones (RFC 951, section 3).
const LEAST_BYTES: usize = 300;
/// The longest message that is read: far more than any client sends, and than its options can need.
pub(super) const MOST_BYTES: usize = 4096;

const COOKIE: [u8; 4] = [99, 130, 83, 99];
const BROADCAST_FLAG: u8 = 0x80;

/// Option numbers of RFC 2132.
mod option {
    pub(super) const PAD: u8 = 0;
    pub(super) const SUBNET_MASK: u8 = 1;
    pub(super) const ROUTER: u8 = 3;
    pub(super) const DNS: u8 = 6;
    pub(super) const HOST_NAME: u8 = 12;
    pub(super) const MTU: u8 = 26;
    pub(super) const REQUESTED_ADDRESS: u8 = 50;
    pub(super) const LEASE_TIME: u8 = 51;
    pub(super) const OVERLOAD: u8 = 52;
    pub(super) const MESSAGE_TYPE: u8 = 53;
    pub(super) const SERVER_ID: u8 = 54;
    pub(super) const CLIENT_ID: u8 = 61;
    pub(super) const END: u8 = 255;
}

/// What the one client on the link is given.
#[derive(Debug, Clone)]
pub(in crate::net) struct Offer {
    /// The only client that is answered.
    pub(in crate::net) mac: MacAddress,
    /// Its address, in a /24.
    pub(in crate::net) address: Ipv4Addr,
    /// The server, which is also the way out.
    pub(in crate::net) gateway: Ipv4Addr,
    /// Who resolves names, if anybody does.
    pub(in crate::net) resolver: Option<Ipv4Addr>,
    /// The largest packet that gets through unbroken, in bytes.
    pub(in crate::net) mtu: u16,
    /// The name that the client may take for itself, at most 63 bytes.
    pub(in crate::net) host_name: Option<String>,
    /// For how long the address is good. The client renews at half of it.
    pub(in crate::net) lease_seconds: u32,
}

/// A message to send.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Reply {
    pub(super) to: SocketAddrV4,
    pub(super) bytes: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Offer = 2,
    Ack = 5,
    Nak = 6,
}

/// What matters of a request.
#[derive(Debug)]
struct Request<'a> {
    fixed: &'a [u8; FIXED_BYTES],
    kind: u8,
    requested: Option<Ipv4Addr>,
    server: Option<Ipv4Addr>,
    client_id: Option<&'a [u8]>,
}

/// Answers one datagram; `None` where there is nothing to say, which includes everything malformed.
pub(super) fn answer(datagram: &[u8], offer: &Offer) -> Option<Reply> {
    let request = Request::parse(datagram)?;
    if request.hardware_address() != offer.mac.octets() || !request.relay_agent().is_unspecified() {
        return None;
    }
    match request.kind {
        1 => Some(request.reply(Kind::Offer, offer)),
        3 => request.wanted_address(offer).map(|wanted| {
            let kind = if wanted == offer.address { Kind::Ack } else { Kind::Nak };
            request.reply(kind, offer)
        }),
        8 if request.client_address() == offer.address => Some(request.information(offer)),
        _ => None,
    }
}

impl<'a> Request<'a> {
    fn parse(datagram: &'a [u8]) -> Option<Self> {
        let (fixed, options) = datagram.split_first_chunk::<FIXED_BYTES>()?;
        let is_ethernet_request = fixed[..3] == [1, 1, 6];
        if !is_ethernet_request || fixed[236..] != COOKIE {
            return None;
        }
        let mut request = Self { fixed, kind: 0, requested: None, server: None, client_id: None };
        let overload = Options(options).find(|(code, _)| *code == option::OVERLOAD);
        let overload = overload.and_then(|(_, value)| value.first().copied()).unwrap_or(0);
        let file = if overload & 1 != 0 { &fixed[108..236] } else { &[] };
        let name = if overload & 2 != 0 { &fixed[44..108] } else { &[] };
        for (code, value) in Options(options).chain(Options(file)).chain(Options(name)) {
            match (code, value) {
                (option::MESSAGE_TYPE, &[kind]) => request.kind = kind,
                (option::REQUESTED_ADDRESS, &[a, b, c, d]) => request.requested = Some([a, b, c, d].into()),
                (option::SERVER_ID, &[a, b, c, d]) => request.server = Some([a, b, c, d].into()),
                (option::CLIENT_ID, value) if !value.is_empty() => request.client_id = Some(value),
                _ => {}
            }
        }
        Some(request)
    }

    fn hardware_address(&self) -> &[u8] {
        &self.fixed[28..34]
    }

    fn client_address(&self) -> Ipv4Addr {
        address(self.fixed, 12)
    }

    fn relay_agent(&self) -> Ipv4Addr {
        address(self.fixed, 24)
    }

    /// The address that a REQUEST asks for; `None` if it asks another server, or for nothing.
    ///
    /// Source: RFC 2131, section 4.3.2: SELECTING, INIT-REBOOT, and RENEWING or REBINDING.
    fn wanted_address(&self, offer: &Offer) -> Option<Ipv4Addr> {
        let held = Some(self.client_address()).filter(|address| !address.is_unspecified());
        match self.server {
            Some(server) if server != offer.gateway => None,
            Some(_) => self.requested,
            None => self.requested.or(held),
        }
    }

    /// The answer to INFORM: the surroundings, without an address and without a lease.
    fn information(&self, offer: &Offer) -> Reply {
        let mut bytes = self.header(Kind::Ack, offer);
        put_surroundings(&mut bytes, offer);
        self.finish(bytes, self.client_address())
    }

    fn reply(&self, kind: Kind, offer: &Offer) -> Reply {
        let mut bytes = self.header(kind, offer);
        if kind == Kind::Nak {
            return self.finish(bytes, Ipv4Addr::BROADCAST);
        }
        bytes[16..20].copy_from_slice(&offer.address.octets());
        put(&mut bytes, option::LEASE_TIME, &offer.lease_seconds.to_be_bytes());
        put_surroundings(&mut bytes, offer);
        // The namespace knows the client's hardware address without asking for it, so a client that
        // has no address yet and did not set the flag gets its unicast, as RFC 2131 section 4.1 says.
        let to = if !self.client_address().is_unspecified() {
            self.client_address()
        } else if self.fixed[10] & BROADCAST_FLAG != 0 {
            Ipv4Addr::BROADCAST
        } else {
            offer.address
        };
        self.finish(bytes, to)
    }

    /// The fixed part and the two options that every answer starts with.
    fn header(&self, kind: Kind, offer: &Offer) -> Vec<u8> {
        let mut bytes = vec![0; FIXED_BYTES];
        bytes[..3].copy_from_slice(&[2, 1, 6]);
        bytes[4..8].copy_from_slice(&self.fixed[4..8]); // transaction
        bytes[10..12].copy_from_slice(&self.fixed[10..12]); // flags
        if kind == Kind::Ack {
            bytes[12..16].copy_from_slice(&self.fixed[12..16]); // the address it holds; RFC 2131, table 3
        }
        bytes[28..44].copy_from_slice(&self.fixed[28..44]); // hardware address
        bytes[236..].copy_from_slice(&COOKIE);
        put(&mut bytes, option::MESSAGE_TYPE, &[kind as u8]);
        put(&mut bytes, option::SERVER_ID, &offer.gateway.octets());
        bytes
    }

    fn finish(&self, mut bytes: Vec<u8>, to: Ipv4Addr) -> Reply {
        if let Some(id) = self.client_id {
            put(&mut bytes, option::CLIENT_ID, id);
        }
        bytes.push(option::END);
        bytes.resize(bytes.len().max(LEAST_BYTES), option::PAD);
        Reply { to: SocketAddrV4::new(to, CLIENT_PORT), bytes }
    }
}

fn address(bytes: &[u8; FIXED_BYTES], at: usize) -> Ipv4Addr {
    Ipv4Addr::new(bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3])
}

fn put_surroundings(bytes: &mut Vec<u8>, offer: &Offer) {
    put(bytes, option::SUBNET_MASK, &[255, 255, 255, 0]);
    put(bytes, option::ROUTER, &offer.gateway.octets());
    if let Some(resolver) = offer.resolver {
        put(bytes, option::DNS, &resolver.octets());
    }
    put(bytes, option::MTU, &offer.mtu.to_be_bytes());
    if let Some(name) = &offer.host_name {
        put(bytes, option::HOST_NAME, name.as_bytes());
    }
}

/// Appends an option; a value holds at most 255 bytes, and none here can be longer.
fn put(bytes: &mut Vec<u8>, code: u8, value: &[u8]) {
    let length = u8::try_from(value.len()).expect("an option's value fits its length byte");
    bytes.extend([code, length]);
    bytes.extend(value);
}

/// Walks options until they end, by the end mark or by running out in the middle of one.
#[derive(Clone, Copy)]
struct Options<'a>(&'a [u8]);

impl<'a> Iterator for Options<'a> {
    type Item = (u8, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match *self.0 {
                [option::PAD, ref rest @ ..] => self.0 = rest,
                [option::END, ..] | [] | [_] => return None,
                [code, length, ref rest @ ..] => {
                    let (value, rest) = rest.split_at_checked(length.into())?;
                    self.0 = rest;
                    return Some((code, value));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MAC: [u8; 6] = [0x52, 0x54, 0, 1, 2, 3];
    const GUEST: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 15);
    const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
    const OTHER: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 7);

    fn offer() -> Offer {
        Offer {
            mac: MacAddress::new(MAC).unwrap(),
            address: GUEST,
            gateway: GATEWAY,
            resolver: None,
            mtu: 1400,
            host_name: Some("web".to_owned()),
            lease_seconds: 86_400,
        }
    }

    fn request(kind: u8, held: Ipv4Addr, flags: u8, options: &[(u8, &[u8])]) -> Vec<u8> {
        let mut bytes = vec![0; FIXED_BYTES];
        bytes[..3].copy_from_slice(&[1, 1, 6]);
        bytes[4..8].copy_from_slice(b"xid!");
        bytes[10] = flags;
        bytes[12..16].copy_from_slice(&held.octets());
        bytes[28..34].copy_from_slice(&MAC);
        bytes[236..].copy_from_slice(&COOKIE);
        put(&mut bytes, option::MESSAGE_TYPE, &[kind]);
        options.iter().for_each(|(code, value)| put(&mut bytes, *code, value));
        bytes.push(option::END);
        bytes
    }

    /// A request of `kind` by a client that holds `held` is answered by `want`: a kind and whither.
    #[track_caller]
    fn check(kind: u8, held: Ipv4Addr, options: &[(u8, &[u8])], want: Option<(Kind, Ipv4Addr)>) {
        let reply = answer(&request(kind, held, 0, options), &offer());
        let found =
            reply.as_ref().map(|reply| (value(&reply.bytes, option::MESSAGE_TYPE)[0], *reply.to.ip()));
        assert_eq!(found, want.map(|(kind, to)| (kind as u8, to)));
    }

    #[track_caller]
    fn value(bytes: &[u8], code: u8) -> &[u8] {
        Options(&bytes[FIXED_BYTES..]).find(|(found, _)| *found == code).expect("the option is there").1
    }

    const NONE: Ipv4Addr = Ipv4Addr::UNSPECIFIED;

    #[test]
    fn each_message_is_answered_as_rfc_2131_says() {
        let ours: (u8, &[u8]) = (option::REQUESTED_ADDRESS, &GUEST.octets());
        let theirs: (u8, &[u8]) = (option::REQUESTED_ADDRESS, &OTHER.octets());
        let to_us: (u8, &[u8]) = (option::SERVER_ID, &GATEWAY.octets());
        let to_them: (u8, &[u8]) = (option::SERVER_ID, &OTHER.octets());

        check(1, NONE, &[], Some((Kind::Offer, GUEST)));
        check(1, NONE, &[theirs], Some((Kind::Offer, GUEST))); // a hint, not a demand
        check(3, NONE, &[ours, to_us], Some((Kind::Ack, GUEST))); // selecting
        check(3, NONE, &[theirs, to_us], Some((Kind::Nak, Ipv4Addr::BROADCAST)));
        check(3, NONE, &[ours, to_them], None);
        check(3, NONE, &[ours], Some((Kind::Ack, GUEST))); // after a reboot
        check(3, NONE, &[theirs], Some((Kind::Nak, Ipv4Addr::BROADCAST)));
        check(3, GUEST, &[], Some((Kind::Ack, GUEST))); // renewing
        check(3, OTHER, &[], Some((Kind::Nak, Ipv4Addr::BROADCAST)));
        check(3, NONE, &[], None); // asks for nothing
        check(8, GUEST, &[], Some((Kind::Ack, GUEST))); // inform
        check(8, OTHER, &[], None);
        check(4, NONE, &[ours, to_us], None); // decline
        check(7, GUEST, &[to_us], None); // release
        check(2, NONE, &[], None); // a server's message
        check(0, NONE, &[], None); // BOOTP
    }

    #[test]
    fn an_offer_says_all_the_client_needs_to_know() {
        let reply = answer(&request(1, NONE, 0x80, &[(option::CLIENT_ID, b"\x01me")]), &offer()).unwrap();
        assert_eq!(reply.to.to_string(), "255.255.255.255:68"); // it asked for broadcast
        assert_eq!(reply.bytes[16..20], GUEST.octets());
        assert_eq!(reply.bytes[4..8], *b"xid!");
        assert!(reply.bytes.len() >= LEAST_BYTES);
        for (code, want) in [
            (option::SUBNET_MASK, &[255, 255, 255, 0][..]),
            (option::ROUTER, &GATEWAY.octets()),
            (option::SERVER_ID, &GATEWAY.octets()),
            (option::LEASE_TIME, &86_400_u32.to_be_bytes()),
            (option::MTU, &1400_u16.to_be_bytes()),
            (option::HOST_NAME, b"web"),
            (option::CLIENT_ID, b"\x01me"),
        ] {
            assert_eq!(value(&reply.bytes, code), want, "option {code}");
        }
        assert!(Options(&reply.bytes[FIXED_BYTES..]).all(|(code, _)| code != option::DNS));
    }

    #[test]
    fn a_resolver_is_named_only_where_there_is_one() {
        let offer = Offer { resolver: Some(Ipv4Addr::new(10, 0, 2, 3)), ..offer() };
        let reply = answer(&request(1, NONE, 0, &[]), &offer).unwrap();
        assert_eq!(value(&reply.bytes, option::DNS), [10, 0, 2, 3]);
    }

    #[test]
    fn information_carries_no_lease() {
        let reply = answer(&request(8, GUEST, 0, &[]), &offer()).unwrap();
        assert_eq!(reply.bytes[16..20], [0; 4]);
        assert!(Options(&reply.bytes[FIXED_BYTES..]).all(|(code, _)| code != option::LEASE_TIME));
    }

    #[test]
    fn only_the_machine_itself_is_answered() {
        let good = request(1, NONE, 0, &[]);
        for (what, at, byte) in [
            ("another MAC", 33, 9),
            ("a relay agent", 27, 1),
            ("a reply", 0, 2),
            ("no Ethernet", 1, 6),
            ("no cookie", 239, 0),
        ] {
            let mut bytes = good.clone();
            bytes[at] = byte;
            assert_eq!(answer(&bytes, &offer()), None, "{what}");
        }
        assert_eq!(answer(&good[..FIXED_BYTES - 1], &offer()), None);
    }

    #[test]
    fn options_may_continue_in_the_file_field() {
        let mut bytes = request(3, GUEST, 0, &[(option::OVERLOAD, &[1])]);
        let hidden = [option::REQUESTED_ADDRESS, 4, 192, 168, 1, 7, option::END];
        bytes[108..115].copy_from_slice(&hidden);
        let reply = answer(&bytes, &offer()).unwrap();
        assert_eq!(value(&reply.bytes, option::MESSAGE_TYPE), [Kind::Nak as u8]);
    }

    proptest! {
        #[test]
        fn nothing_a_guest_sends_makes_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            answer(&bytes, &offer());
        }

        #[test]
        fn no_options_a_guest_sends_make_it_panic(tail in prop::collection::vec(any::<u8>(), 0..400)) {
            let mut bytes = request(3, GUEST, 0, &[]);
            bytes.truncate(FIXED_BYTES);
            bytes.extend(tail);
            if let Some(reply) = answer(&bytes, &offer()) {
                prop_assert!(reply.bytes.len() <= 1024);
            }
        }
    }
}
