//! A capture: any bytes as they are, and as the packed decisions of a block, which are made to fit. What is read can be written and
//! read again.

use std::io::Cursor;

use tollgate::capture::block::Builder;
use tollgate::capture::reader::End;
use tollgate::capture::{Decision, MAGIC, Reader, VERSION, form};
use tollgate::time::Timestamp;

/// A header that is good.
const HEADER: &[u8] = br#"{"tollgate":"0","began":0,"sample":1.0,"store":"embedded","stop_increment":null,"shadow_mode":false,"quota_mode":false}"#;

/// The bytes of a file, and those of a decision.
pub fn run(data: &[u8]) {
    read(data);
    read(&[&start()[..], data].concat());
    let at = Timestamp::from_micros(1);
    if let Ok(decision) = form::read(at, data) {
        again(&decision);
    }
    let mut builder = Builder::default();
    builder.add(at, data);
    let block = builder.finish(3).expect("packed");
    read(&[start(), block].concat());
}

/// All that comes before the first block.
fn start() -> Vec<u8> {
    let length = u32::try_from(HEADER.len()).expect("a short header");
    [&MAGIC[..], &[VERSION], &length.to_le_bytes(), HEADER].concat()
}

/// Reads a file to its end.
fn read(bytes: &[u8]) {
    let mut reader = match Reader::new(Cursor::new(bytes)) {
        Ok(reader) => reader,
        Err(trouble) => {
            assert!(!trouble.to_string().is_empty());
            return;
        }
    };
    while let Some(decision) = reader.next_decision().expect("memory can be read") {
        again(&decision);
    }
    let end = reader.end().expect("an end");
    let place = match end {
        End::Whole => reader.place(),
        End::CutOff(place) | End::Damaged(place) => place,
    };
    assert!(place <= bytes.len() as u64, "{end:?}");
}

/// What was read is written and read again as it was.
fn again(decision: &Decision<'_>) {
    let mut bytes = Vec::new();
    form::write(&mut bytes, decision);
    let read = form::read(decision.at, &bytes);
    assert_eq!(format!("{read:?}"), format!("Ok({decision:?})"));
}
