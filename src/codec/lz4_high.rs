//! lz4 blocks at levels 3 and up: the same format, a longer search for matches.
//!
//! The lz4 library in use knows only the fast algorithm. Barman's default for WAL files is
//! level 6, so the levels are honoured here: hash chains over a 64 KiB window, `2^(level-1)`
//! candidates per position, one position of lazy evaluation. Any lz4 reader reads the result.
//! Format: lz4_Block_format.md of the lz4 project. Memory: 400 KiB of tables, and the output.

const MIN_MATCH: usize = 4;
const MAX_DISTANCE: usize = 65_535;
/// The last bytes of a block are always literals.
const LAST_LITERALS: usize = 5;
/// No match starts this close to the end of a block.
const MATCH_LIMIT: usize = 12;
/// Longer matches are taken without looking further.
const LONG_ENOUGH: usize = 4096;
const HASH_BITS: u32 = 15;
const EMPTY: u32 = u32::MAX;

/// For each hash the latest position, and for each position the one before with its hash.
#[derive(Debug)]
struct Chains {
    latest: Vec<u32>,
    earlier: Vec<u32>,
    /// Positions below this one are in the chains.
    inserted: usize,
}

#[derive(Clone, Copy, Debug)]
struct Match {
    length: usize,
    distance: usize,
}

impl Chains {
    fn new() -> Self {
        Self {
            latest: vec![EMPTY; 1 << HASH_BITS],
            earlier: vec![EMPTY; MAX_DISTANCE + 1],
            inserted: 0,
        }
    }

    fn insert_up_to(&mut self, input: &[u8], end: usize) {
        for position in self.inserted..end {
            let slot = hash(input, position);
            self.earlier[position & MAX_DISTANCE] = self.latest[slot];
            self.latest[slot] = narrow(position);
        }
        self.inserted = self.inserted.max(end);
    }

    /// The longest match for `position` that ends at `limit` or before.
    fn longest(
        &mut self,
        input: &[u8],
        position: usize,
        limit: usize,
        candidates_max: usize,
    ) -> Option<Match> {
        self.insert_up_to(input, position);
        let mut best: Option<Match> = None;
        let mut candidate = self.latest[hash(input, position)];
        for _ in 0..candidates_max {
            if candidate == EMPTY || position - wide(candidate) > MAX_DISTANCE {
                break;
            }
            let start = wide(candidate);
            let length_min = best.map_or(MIN_MATCH - 1, |found| found.length);
            // A longer match must agree at the first byte the best one does not cover.
            if position + length_min < limit
                && input[start + length_min] == input[position + length_min]
            {
                let length = common_length(input, start, position, limit);
                if length > length_min {
                    best = Some(Match { length, distance: position - start });
                    if length >= LONG_ENOUGH {
                        break;
                    }
                }
            }
            let next = self.earlier[start & MAX_DISTANCE];
            // Slots are reused every 64 KiB: a chain that does not go back has ended.
            if next != EMPTY && next >= candidate {
                break;
            }
            candidate = next;
        }
        best
    }
}

/// Appends `input` as one block to `output`.
pub fn compress_block(input: &[u8], level: i32, output: &mut Vec<u8>) {
    let candidates_max = 1 << u32::try_from(level - 1).unwrap_or(2).clamp(2, 12);
    let mut chains = Chains::new();
    let mut literals_from = 0;
    if input.len() > MATCH_LIMIT {
        let (last_start, limit) = (input.len() - MATCH_LIMIT, input.len() - LAST_LITERALS);
        let mut position = 1;
        let mut ahead: Option<Match> = None;
        while position <= last_start {
            let found =
                ahead.take().or_else(|| chains.longest(input, position, limit, candidates_max));
            let Some(found) = found else {
                position += 1;
                continue;
            };
            if found.length < LONG_ENOUGH && position < last_start {
                let next = chains.longest(input, position + 1, limit, candidates_max);
                if next.is_some_and(|next| next.length > found.length) {
                    ahead = next;
                    position += 1;
                    continue;
                }
            }
            sequence(&input[literals_from..position], Some(found), output);
            position += found.length;
            literals_from = position;
        }
    }
    sequence(&input[literals_from..], None, output);
}

/// One token with its literals and, but for the last of a block, its match.
fn sequence(literals: &[u8], found: Option<Match>, output: &mut Vec<u8>) {
    let match_code = found.map_or(0, |found| found.length - MIN_MATCH);
    let nibble = |length: usize| u8::try_from(length.min(15)).expect("at most 15");
    output.push(nibble(literals.len()) << 4 | nibble(match_code));
    extra_length(literals.len(), output);
    output.extend_from_slice(literals);
    if let Some(found) = found {
        let distance = u16::try_from(found.distance).expect("matches lie within 64 KiB");
        output.extend(distance.to_le_bytes());
        extra_length(match_code, output);
    }
}

/// What of a length did not fit its nibble: bytes of 255 and a smaller one.
fn extra_length(length: usize, output: &mut Vec<u8>) {
    let Some(mut rest) = length.checked_sub(15) else { return };
    while rest >= 255 {
        output.push(255);
        rest -= 255;
    }
    output.push(u8::try_from(rest).expect("below 255"));
}

fn common_length(input: &[u8], earlier: usize, position: usize, limit: usize) -> usize {
    let here = &input[position..limit];
    let there = &input[earlier..earlier + here.len()];
    let mut length = 0;
    for (a, b) in here.chunks_exact(8).zip(there.chunks_exact(8)) {
        let word = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().expect("eight bytes"));
        let difference = word(a) ^ word(b);
        if difference != 0 {
            return length + wide(difference.trailing_zeros() / 8);
        }
        length += 8;
    }
    length + here[length..].iter().zip(&there[length..]).take_while(|(a, b)| a == b).count()
}

fn hash(input: &[u8], position: usize) -> usize {
    let bytes = input[position..position + 4].try_into().expect("four bytes");
    // Knuth's multiplicative hash.
    wide(u32::from_le_bytes(bytes).wrapping_mul(2_654_435_761) >> (32 - HASH_BITS))
}

fn narrow(length: usize) -> u32 {
    u32::try_from(length).expect("blocks have at most 4 MiB")
}

fn wide(length: u32) -> usize {
    usize::try_from(length).expect("32 bits fit a usize")
}
