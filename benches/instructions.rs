//! Runs each step under callgrind, which counts its instructions: `benches/instructions` calls this and reads what it says.

use parts::{PLACES, Part};

mod parts;
mod support;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[expect(
    clippy::print_stdout,
    reason = "a benchmark speaks to the script that runs it"
)]
fn main() {
    // Without the script it is `cargo bench` that runs all benches.
    if std::env::var_os("TOLLGATE_COUNTED").is_none() {
        return;
    }
    for mut part in [parts::matching(), parts::deciding(), parts::whole()]
        .into_iter()
        .flatten()
    {
        // What is made once for all requests, and room for all keys.
        (0..PLACES).for_each(&mut part.run);
        counted_by_callgrind(&mut part);
        println!("{} {PLACES}", part.name);
    }
}

/// Callgrind knows it by its name: it counts from its beginning to its end, and then writes the count down.
#[inline(never)]
fn counted_by_callgrind(part: &mut Part) {
    for place in 0..PLACES {
        (part.run)(place);
    }
}
