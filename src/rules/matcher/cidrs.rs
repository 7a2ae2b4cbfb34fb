//! Networks: the addresses of each family are cut where any network begins or ends, and of each piece it is known which
//! network is the longest that holds it. A lookup finds the piece, however many networks and lengths of prefixes there are.

use std::net::IpAddr;

use ipnet::IpNet;

/// Networks, each with what it stands for.
#[derive(Debug)]
pub struct Cidrs<T> {
    v4: Family<u32, T>,
    v6: Family<u128, T>,
}

/// The networks of IPv4 or IPv6.
#[derive(Debug)]
struct Family<A, T> {
    /// Ascending.
    pieces: Vec<Piece<A>>,
    /// How many pieces begin before each part, all parts being as large: so the search begins near its end, unless the
    /// networks stand much closer in some parts than in others.
    before: Vec<u32>,
    /// The logarithm of a part's size.
    shift: u32,
    nets: Vec<Net<T>>,
}

/// Addresses that the same networks hold, up to the next piece.
#[derive(Clone, Copy, Debug)]
struct Piece<A> {
    start: A,
    /// The place of the longest of these networks, or [`OUTSIDE`].
    longest: u32,
}

#[derive(Debug)]
struct Net<T> {
    net: IpNet,
    value: T,
    /// The place of the longest network that holds this one, or [`OUTSIDE`].
    outer: u32,
}

/// An address as a number.
trait Address: Copy + Ord {
    /// The next one, if there is one.
    fn next(self) -> Option<Self>;
    /// How far it is after `start`, in units of 2 to the power of `shift`; the most that there is if it is very far.
    fn after(self, start: Self, shift: u32) -> usize;
}

/// No network.
const OUTSIDE: u32 = u32::MAX;

impl<T> Cidrs<T> {
    /// Of these networks; one that is there twice holds itself.
    pub fn new(nets: impl IntoIterator<Item = (IpNet, T)>) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for (whole, value) in nets {
            let value = (whole, value);
            match whole {
                IpNet::V4(net) => {
                    v4.push((net.network().to_bits(), net.broadcast().to_bits(), value));
                }
                IpNet::V6(net) => {
                    v6.push((net.network().to_bits(), net.broadcast().to_bits(), value));
                }
            }
        }
        Self {
            v4: Family::new(v4),
            v6: Family::new(v6),
        }
    }

    /// Of all networks that hold the address `value`, if it is one, the longest first.
    pub fn all(&self, value: &str) -> impl Iterator<Item = &T> {
        let address = value.parse::<IpAddr>().ok();
        let (v4, v6) = match address.map(|address| address.to_canonical()) {
            Some(IpAddr::V4(address)) => (Some(self.v4.all(address.to_bits())), None),
            Some(IpAddr::V6(address)) => (None, Some(self.v6.all(address.to_bits()))),
            None => (None, None),
        };
        v4.into_iter().flatten().chain(v6.into_iter().flatten())
    }

    /// All of them, each with what it stands for.
    pub fn nets(&self) -> impl Iterator<Item = (IpNet, &T)> {
        let (v4, v6) = (self.v4.nets.iter(), self.v6.nets.iter());
        let v4 = v4.map(|one| (one.net, &one.value));
        v4.chain(v6.map(|one| (one.net, &one.value)))
    }

    /// Of the longest network that holds the address `value`, if it is one.
    pub fn find(&self, value: &str) -> Option<&T> {
        self.all(value).next()
    }
}

impl<T> Default for Cidrs<T> {
    fn default() -> Self {
        Self::new([])
    }
}

impl<A: Address, T> Family<A, T> {
    /// Of networks given as their first and last address.
    fn new(mut nets: Vec<(A, A, (IpNet, T))>) -> Self {
        // Of networks that begin together the one that holds the others comes first.
        nets.sort_by_key(|(first, last, _)| (*first, std::cmp::Reverse(*last)));
        let mut family = Self {
            pieces: Vec::with_capacity(2 * nets.len()),
            before: Vec::new(),
            shift: 0,
            nets: Vec::with_capacity(nets.len()),
        };
        // The networks that hold the address which has been reached, the longest last: where each ends, and its place.
        let mut open: Vec<(A, u32)> = Vec::new();
        for (first, last, (net, value)) in nets {
            while let Some((end, _)) = open.pop_if(|(end, _)| *end < first) {
                family.cut(end.next(), &open);
            }
            let outer = open.last().map_or(OUTSIDE, |(_, outer)| *outer);
            let place = u32::try_from(family.nets.len()).unwrap_or(OUTSIDE);
            family.nets.push(Net { net, value, outer });
            open.push((last, place));
            family.cut(Some(first), &open);
        }
        while let Some((end, _)) = open.pop() {
            family.cut(end.next(), &open);
        }
        family.index();
        family
    }

    /// From `start` on the innermost of the `open` networks is the longest.
    fn cut(&mut self, start: Option<A>, open: &[(A, u32)]) {
        let Some(start) = start else { return };
        let longest = open.last().map_or(OUTSIDE, |(_, place)| *place);
        self.pieces.pop_if(|piece| piece.start == start);
        self.pieces.push(Piece { start, longest });
    }

    /// Makes about as many parts as there are pieces.
    fn index(&mut self) {
        let (Some(first), Some(last)) = (self.pieces.first(), self.pieces.last()) else {
            return;
        };
        let (first, last) = (first.start, last.start);
        while last.after(first, self.shift) > self.pieces.len() {
            self.shift += 1;
        }
        let mut before = 0;
        for part in 0..=last.after(first, self.shift) + 1 {
            let begins_before = |piece: &Piece<A>| piece.start.after(first, self.shift) < part;
            let pieces = self.pieces.iter().skip(before);
            before += pieces.take_while(|piece| begins_before(piece)).count();
            self.before.push(u32::try_from(before).unwrap_or(OUTSIDE));
        }
    }

    /// What the networks that hold an address stand for, the longest first.
    fn all(&self, address: A) -> impl Iterator<Item = &T> {
        let first = self.piece(address);
        let first = first.and_then(|piece| self.nets.get(piece.longest as usize));
        let outer = |net: &&'_ Net<T>| self.nets.get(net.outer as usize);
        std::iter::successors(first, outer).map(|net| &net.value)
    }

    /// The piece that holds an address; none before the first.
    fn piece(&self, address: A) -> Option<&Piece<A>> {
        let first = self.pieces.first().filter(|first| first.start <= address)?;
        let part = address.after(first.start, self.shift);
        let [from, to] = match self.before.get(part..part.saturating_add(2)) {
            Some(&[from, to]) => [from as usize, to as usize],
            _ => return self.pieces.last(),
        };
        let begun = |piece: &Piece<A>| piece.start <= address;
        let in_part = self.pieces.get(from..to)?.partition_point(begun);
        self.pieces.get((from + in_part).checked_sub(1)?)
    }
}

impl Address for u32 {
    fn next(self) -> Option<Self> {
        self.checked_add(1)
    }

    fn after(self, start: Self, shift: u32) -> usize {
        (self - start).checked_shr(shift).unwrap_or(0) as usize
    }
}

impl Address for u128 {
    fn next(self) -> Option<Self> {
        self.checked_add(1)
    }

    fn after(self, start: Self, shift: u32) -> usize {
        let parts = (self - start).checked_shr(shift).unwrap_or(0);
        usize::try_from(parts).unwrap_or(usize::MAX)
    }
}

#[cfg(test)]
mod tests {
    use ipnet::IpNet;
    use proptest::prelude::*;

    use super::Cidrs;

    /// Networks that hold each other, stand side by side, and end where the addresses do.
    fn nets() -> impl Strategy<Value = Vec<IpNet>> {
        let v4 = (
            prop::sample::select(vec![0_u32, 0x0a00_0000, 0xffff_0000]),
            0_u32..1 << 16,
            0_u8..=32,
        );
        let v4 = v4
            .prop_map(|(high, low, length)| IpNet::new((high | low).to_be_bytes().into(), length));
        let v6 = (
            prop::sample::select(vec![0_u128, 0x2001 << 112, u128::MAX << 16]),
            0_u128..1 << 16,
            0_u8..=128,
        );
        let v6 = v6
            .prop_map(|(high, low, length)| IpNet::new((high | low).to_be_bytes().into(), length));
        let net =
            prop_oneof![v4, v6].prop_map(|net| net.expect("a length within the address").trunc());
        prop::collection::hash_set(net, 0..60).prop_map(|nets| nets.into_iter().collect())
    }

    proptest! {
        #[test]
        fn finds_all_that_hold_an_address(nets in nets(), others in prop::collection::vec(any::<u16>(), 20)) {
            let cidrs = Cidrs::new(nets.iter().map(|net| (*net, *net)));
            let ends = nets.iter().flat_map(|net| [net.network(), net.broadcast()]);
            let others = others.iter().map(|low| std::net::Ipv4Addr::from_bits(0x0a00_0000 | u32::from(*low)).into());
            for address in ends.chain(others).map(|address| address.to_canonical()) {
                let mut wanted: Vec<IpNet> = nets.iter().filter(|net| net.contains(&address)).copied().collect();
                wanted.sort_by_key(|net| std::cmp::Reverse(net.prefix_len()));
                let found: Vec<IpNet> = cidrs.all(&address.to_string()).copied().collect();
                prop_assert_eq!(found, wanted, "{}", address);
            }
        }
    }
}
