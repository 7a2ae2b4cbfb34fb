//! The names and flags that the process may be called with: its own, and those of envoyproxy/ratelimit.

use std::ffi::{OsStr, OsString};
use std::path::Path;

/// What envoyproxy/ratelimit calls its service.
pub const SERVICE: &str = "ratelimit";

/// What it calls the program that checks rule files.
pub const CONFIG_CHECK: &str = "ratelimit_config_check";

/// What it calls its client.
pub const CLIENT: &str = "ratelimit_client";

/// The arguments with a subcommand: that of the name the process was called by, else `serve` where none is named. Its
/// variables are thus read, and may be wrong, only when it is what runs.
///
/// `/bin/ratelimit` as the first argument counts as the name: it is what a container is told whose image has an entry point.
pub fn arguments(args: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut args: Vec<OsString> = args.collect();
    let is_path = |arg: &OsString| arg.as_encoded_bytes().contains(&b'/');
    if args.get(1).is_some_and(|arg| is_path(arg) && is_known(arg)) {
        args.remove(0);
    }
    match args.first().map(|program| name(program)) {
        Some(program) if program == CONFIG_CHECK || program == CLIENT => {
            let program = program.to_owned();
            args.insert(1, program);
        }
        _ => {}
    }
    if args
        .get(1)
        .is_some_and(|arg| arg == CONFIG_CHECK || arg == CLIENT)
    {
        args[2..].iter_mut().for_each(double_dash);
    }
    let about_all = ["-h", "--help", "-V", "--version"].map(OsStr::new);
    let is_serve = args.get(1).is_none_or(|first| {
        !about_all.contains(&first.as_os_str()) && first.as_encoded_bytes().starts_with(b"-")
    });
    if is_serve {
        args.insert(args.len().min(1), "serve".into());
    }
    args
}

fn is_known(program: &OsStr) -> bool {
    [SERVICE, CONFIG_CHECK, CLIENT]
        .iter()
        .any(|known| name(program) == *known)
}

/// The last part of a path.
fn name(program: &OsStr) -> &OsStr {
    Path::new(program).file_name().unwrap_or_default()
}

/// Go's flags have one dash or two.
fn double_dash(arg: &mut OsString) {
    let bytes = arg.as_encoded_bytes();
    if bytes.len() > 2 && bytes.starts_with(b"-") && !bytes.starts_with(b"--") {
        let mut doubled = OsString::from("-");
        doubled.push(&*arg);
        *arg = doubled;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> String {
        let args = arguments(line.split(' ').map(OsString::from));
        let args: Vec<_> = args.iter().map(|arg| arg.to_string_lossy()).collect();
        args.join(" ")
    }

    #[test]
    fn every_name_says_what_runs() {
        for (called, understood) in [
            ("tollgate", "tollgate serve"),
            ("/bin/ratelimit", "/bin/ratelimit serve"),
            ("tollgate --port 1", "tollgate serve --port 1"),
            ("tollgate -h", "tollgate -h"),
            ("tollgate check d", "tollgate check d"),
            ("/bin/tollgate /bin/ratelimit", "/bin/ratelimit serve"),
            (
                "/bin/ratelimit_config_check -config_dir d",
                "/bin/ratelimit_config_check ratelimit_config_check --config_dir d",
            ),
            (
                "tollgate /bin/ratelimit_client --domain=a -h",
                "/bin/ratelimit_client ratelimit_client --domain=a -h",
            ),
            (
                "tollgate ratelimit_client -domain a",
                "tollgate ratelimit_client --domain a",
            ),
        ] {
            assert_eq!(read(called), understood, "{called}");
        }
    }
}
